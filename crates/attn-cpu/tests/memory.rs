//! A call allocates what `workspace_bytes` says, to the byte, and nothing else: in one piece, on any number of threads; a tiny one nothing.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use attn_cpu::{
    Attention, Band, Element, Isa, Upstream, View, Wanted, backward, backward_bytes, forward, workspace_bytes,
};
use half::bf16;

/// The system's allocator; counts what it is asked for.
struct Counting;

static CALLS: AtomicUsize = AtomicUsize::new(0);
static BYTES: AtomicUsize = AtomicUsize::new(0);

// SAFETY: passes everything on to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        CALLS.fetch_add(1, SeqCst);
        BYTES.fetch_add(layout.size(), SeqCst);
        // SAFETY: passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: passed on.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// What counts has the counters alone.
static ALONE: Mutex<()> = Mutex::new(());

/// B, H, G, Sq, Sk, D, E.
type Sizes = [usize; 7];

/// Whether a call works on its stack.
fn is_tiny([batch, heads, _, query_len, key_len, head_dim, value_dim]: Sizes) -> bool {
    batch * heads * query_len * key_len * (head_dim + value_dim) < 1000
}

/// What a call allocates by a thread of a pool of `threads`, or by one that is not a pool's: how often, and how much.
fn allocated<T: Element>(sizes: Sizes, isa: Isa, causal: bool, threads: Option<usize>) -> (usize, usize) {
    let [batch, heads, kv_heads, query_len, key_len, head_dim, value_dim] = sizes;
    let own = usize::from(!is_tiny(sizes));
    let query = vec![T::default(); batch * heads * query_len * head_dim];
    let key = vec![T::default(); batch * kv_heads * key_len * head_dim];
    let value = vec![T::default(); batch * kv_heads * key_len * value_dim];
    let band = Band { offset: 0, lower: None, upper: causal.then_some(0), keys: key_len };
    let bands = vec![band; batch];
    let problem = Attention::plain(
        View::contiguous(&query, [batch, heads, query_len, head_dim]).expect("its own length"),
        View::contiguous(&key, [batch, kv_heads, key_len, head_dim]).expect("its own length"),
        View::contiguous(&value, [batch, kv_heads, key_len, value_dim]).expect("its own length"),
        &bands,
    );
    let mut out = vec![T::default(); batch * heads * query_len * value_dim];
    let mut measure = || {
        // The pool makes records for each thread when that first takes work of another, which no call owes: the least is a call's own.
        let mut least = (usize::MAX, usize::MAX);
        for _ in 0..200 {
            let before = (CALLS.load(SeqCst), BYTES.load(SeqCst));
            forward(&problem, isa, &mut out, None).expect("a plain problem");
            least = least.min((CALLS.load(SeqCst) - before.0, BYTES.load(SeqCst) - before.1));
            if least.0 == own {
                break;
            }
        }
        least
    };
    match threads {
        Some(threads) => {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("threads start");
            pool.install(measure)
        }
        None => measure(),
    }
}

/// A short call by a thread that is not a pool's hands the pool a job; which may cost some hundred bytes, whatever the problem's size.
#[test]
fn what_a_call_from_outside_the_pool_allocates_beside_the_plan() {
    let _alone = ALONE.lock();
    let threads = rayon::current_num_threads();
    for (sizes, most) in [([1, 8, 8, 64, 64, 64, 64], 2), ([1, 1, 1, 3, 4, 8, 8], 0), ([1, 8, 8, 600, 600, 64, 64], 0)]
    {
        let [b, h, g, q, k, d, e] = sizes;
        let said = workspace_bytes::<f32>(Isa::detect(), b, h, g, q, k, d, e, threads) as usize;
        let (calls, bytes) = allocated::<f32>(sizes, Isa::detect(), false, None);
        assert!(calls <= 1 + most && bytes <= said + 128 * most, "{sizes:?}: {bytes} bytes by {calls}, {said} planned");
    }
}

#[test]
fn what_is_allocated_is_what_the_plan_says() {
    let _alone = ALONE.lock();
    fn check<T: Element>(sizes: Sizes, isa: Isa, threads: usize) {
        let [b, h, g, q, k, d, e] = sizes;
        let said = workspace_bytes::<T>(isa, b, h, g, q, k, d, e, threads) as usize;
        for causal in [false, true] {
            let (calls, bytes) = allocated::<T>(sizes, isa, causal, Some(threads));
            let name = format!("{} {sizes:?} {} on {threads} threads", T::NAME, isa.name());
            assert_eq!((calls, bytes), (usize::from(!is_tiny(sizes)), said), "{name}: {said} bytes were planned");
        }
    }
    // Prefill, short and long; few rows against many keys, whose keys are split; tiny; values of another dim.
    let all: [Sizes; 6] = [
        [1, 2, 2, 100, 300, 64, 64],
        [2, 6, 2, 77, 103, 20, 12],
        [1, 8, 2, 1, 5000, 16, 16],
        [1, 1, 1, 3, 4, 8, 8],
        [3, 4, 4, 40, 40, 33, 17],
        [1, 1, 1, 900, 20, 8, 256],
    ];
    for sizes in all {
        for threads in [1, 2, 3, 8] {
            for isa in Isa::available() {
                check::<f32>(sizes, isa, threads);
            }
            check::<f64>(sizes, Isa::detect(), threads);
            check::<bf16>(sizes, Isa::detect(), threads);
        }
    }
}

/// What a backward pass that wants everything allocates on `threads` threads besides the gradients: how often, and how much.
fn allocated_backward<T: Element>(sizes: Sizes, isa: Isa, wanted: Wanted, threads: usize) -> (usize, usize) {
    let [batch, heads, kv_heads, query_len, key_len, head_dim, value_dim] = sizes;
    let query = vec![T::default(); batch * heads * query_len * head_dim];
    let key = vec![T::default(); batch * kv_heads * key_len * head_dim];
    let value = vec![T::default(); batch * kv_heads * key_len * value_dim];
    let (bias, slopes) = (vec![T::default(); heads * query_len * key_len], vec![T::default(); heads]);
    let out = vec![T::default(); batch * heads * query_len * value_dim];
    let lse = vec![T::Accum::default(); batch * heads * query_len];
    let bands = vec![Band::full(key_len); batch];
    let mut problem = Attention::plain(
        View::contiguous(&query, [batch, heads, query_len, head_dim]).expect("its own length"),
        View::contiguous(&key, [batch, kv_heads, key_len, head_dim]).expect("its own length"),
        View::contiguous(&value, [batch, kv_heads, key_len, value_dim]).expect("its own length"),
        &bands,
    );
    let strides = [0, query_len * key_len, key_len, 1];
    problem.bias = Some(View::new(&bias, [batch, heads, query_len, key_len], strides).expect("its own length"));
    problem.alibi_slopes = Some(&slopes);
    let out_view = View::contiguous(&out, [batch, heads, query_len, value_dim]).expect("its own length");
    let upstream = Upstream {
        out: out_view,
        lse: View::contiguous(&lse, [batch, heads, query_len]).expect("its own length"),
        grad_out: Some(out_view),
        grad_lse: None,
    };
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("threads start");
    pool.install(|| {
        let mut least = (usize::MAX, usize::MAX);
        for _ in 0..200 {
            let before = (CALLS.load(SeqCst), BYTES.load(SeqCst));
            let made = backward(&problem, isa, &upstream, wanted).expect("a sound problem");
            let after = (CALLS.load(SeqCst) - before.0, BYTES.load(SeqCst) - before.1);
            let gradients = [&made.query, &made.key, &made.value, &made.bias, &made.alibi_slopes];
            let own: Vec<_> = gradients.into_iter().flatten().map(|made| made.len() * size_of::<T>()).collect();
            least = least.min((after.0 - own.len(), after.1 - own.iter().sum::<usize>()));
            if least.0 == 1 {
                break;
            }
        }
        least
    })
}

#[test]
fn what_a_backward_pass_allocates_is_what_the_plan_says() {
    let _alone = ALONE.lock();
    fn check<T: Element>(sizes: Sizes, isa: Isa, threads: usize) {
        let [batch, heads, _, query_len, key_len, ..] = sizes;
        let plain = Wanted { query: true, key: true, value: true, ..Wanted::default() };
        for bias in [[1, heads, query_len, key_len], [1, heads, 1, key_len], [batch, heads, query_len, 1]] {
            for wanted in [plain, Wanted { bias: Some(bias), alibi_slopes: true, ..plain }] {
                let said = backward_bytes::<T>(isa, sizes, &wanted, threads) as usize;
                let (calls, bytes) = allocated_backward::<T>(sizes, isa, wanted, threads);
                let name = format!("{} {sizes:?} {} on {threads} threads", T::NAME, isa.name());
                assert_eq!((calls, bytes), (1, said), "{name}: {said} bytes were planned");
            }
        }
    }
    // Of the last one the rows of a block of keys are split.
    for sizes in
        [[1, 2, 2, 100, 300, 64, 64], [2, 6, 2, 77, 103, 20, 12], [1, 4, 1, 3, 700, 8, 8], [1, 2, 1, 800, 20, 8, 8]]
    {
        for threads in [1, 2, 3, 8] {
            check::<f32>(sizes, Isa::detect(), threads);
            check::<bf16>(sizes, Isa::detect(), threads);
            check::<f64>(sizes, Isa::Portable, threads);
        }
    }
}
