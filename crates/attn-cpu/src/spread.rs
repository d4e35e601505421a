//! Handing work to the threads of the pool.
//!
//! A thread of the pool halves the work by `rayon::join`. Any other, such as a program's first, hands all of it over by that and sleeps
//! until it is done: a thread of the pool has to wake, and then wakes the next. Where a call is short it works as well instead, and offers the
//! rest to the pool: who comes before it is through takes part, and an offer that nobody has taken by then is withdrawn. So a short call
//! waits for no core that is slow to wake, or busy with somebody else's work. A tenth to a fifth of calls of a twentieth to a tenth of a
//! millisecond is saved, and as much of decoding for two or three. In longer calls there is nothing to save.
//!
//! Either way Linux now and then puts two of the threads on one core, while another is idle, and lets them take turns of four milliseconds
//! (seen by `perf sched timehist`; as we understand it, it doesn't look for idle cores on a machine that has just been busy).

use std::any::Any;
use std::cell::UnsafeCell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::thread::Thread;

use crate::workspace::Area;

/// Multiplications below which waking a thread takes longer than it saves (some ten microseconds of one core).
const SERIAL_PRODUCTS: u128 = 1 << 20;

/// Multiplications of a call that takes three milliseconds or less: its caller works as well.
const SHORT_PRODUCTS: u128 = 1 << 28;

/// Whether a call of so many multiplications is over before a second thread has woken.
pub(crate) fn is_serial(products: u128) -> bool {
    products < SERIAL_PRODUCTS
}

/// Runs `work` on up to `workers` threads, each with an area of its own of so many bytes: all of them together `products`
/// multiplications. It must be such that any of them can do all of it: threads that come late find nothing left.
pub(crate) fn spread<'a>(
    mut area: Area<'a>,
    workers: usize,
    bytes: usize,
    products: u128,
    work: &(impl Fn(Area<'a>) + Sync),
) {
    if workers > 1 && products < SHORT_PRODUCTS && rayon::current_thread_index().is_none() {
        let mine = area.split(bytes);
        beside(|| halve(area, workers - 1, bytes, work), || work(mine));
    } else {
        halve(area, workers, bytes, work);
    }
}

/// By threads of the pool. Nothing is allocated for it.
fn halve<'a>(mut area: Area<'a>, workers: usize, bytes: usize, work: &(impl Fn(Area<'a>) + Sync)) {
    if workers == 1 {
        return work(area.split(bytes));
    }
    let half = workers / 2;
    let mine = area.split(half * bytes);
    rayon::join(|| halve(mine, half, bytes, work), || halve(area, workers - half, bytes, work));
}

/// Nobody has taken the offer.
const OPEN: u8 = 0;
/// A thread of the pool is at it, and borrows from the caller.
const TAKEN: u8 = 1;
/// That thread is through, and borrows no more.
const DONE: u8 = 2;
/// The caller is through, and nobody may take it.
const WITHDRAWN: u8 = 3;

/// Looks this often whether the other thread is through before it sleeps: some twenty microseconds, less than falling asleep and waking take.
const SPINS: usize = 1000;

/// What both threads know of an offer; outlives whichever of them is through first.
struct Offer {
    state: AtomicU8,
    caller: Thread,
}

/// What the caller lends to the one who takes its offer.
struct Lent<H> {
    help: Option<H>,
    panic: Option<Box<dyn Any + Send>>,
}

/// An offer on its way to the pool.
struct Sent {
    offer: Arc<Offer>,
    /// The caller's `UnsafeCell<Lent<H>>`.
    lent: *const (),
    /// [`accept`] for that `H`.
    accept: unsafe fn(*const ()),
}

// SAFETY: what `lent` points to is touched by the one thread that takes the offer, while the caller leaves it alone; `H` may be sent.
unsafe impl Send for Sent {}

impl Sent {
    fn arrive(&self) {
        if self.offer.state.compare_exchange(OPEN, TAKEN, Ordering::Acquire, Ordering::Relaxed).is_ok() {
            // SAFETY: taken, so that the caller stays until it is done, and nobody else touches what it lent.
            unsafe { (self.accept)(self.lent) };
            self.offer.state.store(DONE, Ordering::Release);
            self.offer.caller.unpark();
        }
    }
}

/// Runs what was lent, and leaves in its place how it panicked.
///
/// # Safety
/// `lent` points to an `UnsafeCell<Lent<H>>` that nobody else touches.
unsafe fn accept<H: FnOnce() + Send>(lent: *const ()) {
    // SAFETY: passed on from the caller.
    let lent = unsafe { &mut *UnsafeCell::raw_get(lent.cast::<UnsafeCell<Lent<H>>>()) };
    if let Some(help) = lent.help.take() {
        lent.panic = catch_unwind(AssertUnwindSafe(help)).err();
    }
}

/// Takes an offer back when dropped, also by a panic: what is lent must outlive who has taken it.
struct Withdraw<'a>(&'a Offer);

impl Drop for Withdraw<'_> {
    fn drop(&mut self) {
        if self.0.state.compare_exchange(OPEN, WITHDRAWN, Ordering::Relaxed, Ordering::Acquire).is_ok() {
            return;
        }
        let mut spins = 0;
        while self.0.state.load(Ordering::Acquire) != DONE {
            if spins < SPINS {
                spins += 1;
                std::hint::spin_loop();
            } else {
                std::thread::park();
            }
        }
    }
}

/// Runs `own` here, and `help` on a thread of the pool if one comes before `own` is over. Returns when neither runs any more.
///
/// # Panics
/// As either of them does.
fn beside<H: FnOnce() + Send>(help: H, own: impl FnOnce()) {
    let lent = UnsafeCell::new(Lent { help: Some(help), panic: None });
    let offer = Arc::new(Offer { state: AtomicU8::new(OPEN), caller: std::thread::current() });
    let withdraw = Withdraw(&offer);
    let sent = Sent { offer: Arc::clone(&offer), lent: (&raw const lent).cast(), accept: accept::<H> };
    rayon::spawn(move || sent.arrive());
    own();
    drop(withdraw);
    if let Some(panic) = lent.into_inner().panic {
        resume_unwind(panic);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;
    use std::sync::{Barrier, Mutex, PoisonError};

    use super::*;

    /// The pool, which a test may keep from everybody else.
    static POOL: Mutex<()> = Mutex::new(());

    fn alone() -> impl Drop {
        POOL.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[test]
    fn help_is_had_while_the_caller_works() {
        let _alone = alone();
        let (tell, told) = channel();
        let here = std::thread::current().id();
        let mut helper = None;
        // Returns only if the helper comes meanwhile.
        beside(
            || {
                helper = Some(std::thread::current().id());
                tell.send(()).expect("the caller listens");
            },
            || told.recv().expect("the helper tells"),
        );
        assert!(helper.is_some_and(|helper| helper != here));
    }

    #[test]
    fn nobody_is_waited_for_who_has_not_come() {
        let _alone = alone();
        let threads = rayon::current_num_threads();
        let barrier = Arc::new(Barrier::new(threads + 1));
        for _ in 0..threads {
            let barrier = Arc::clone(&barrier);
            rayon::spawn(move || {
                barrier.wait();
                barrier.wait();
            });
        }
        barrier.wait();
        // All threads of the pool wait at the barrier: this would never return if it needed one.
        let mut own = false;
        beside(|| unreachable!("nobody can come"), || own = true);
        assert!(own);
        barrier.wait();
    }

    #[test]
    fn a_panic_of_either_reaches_the_caller_once_both_are_through() {
        let _alone = alone();
        let of_helper = catch_unwind(|| {
            let (tell, told) = channel::<()>();
            beside(
                move || {
                    let _tell = tell;
                    panic!("the helper's")
                },
                || assert!(told.recv().is_err(), "the helper is gone"),
            );
        });
        assert_eq!(of_helper.expect_err("it panicked").downcast_ref(), Some(&"the helper's"));
        let through = AtomicU8::new(0);
        let of_caller = catch_unwind(|| {
            let (tell, told) = channel();
            let through = &through;
            beside(
                move || {
                    tell.send(()).expect("the caller listens");
                    std::thread::sleep(std::time::Duration::from_millis(20));
                    through.store(1, Ordering::Relaxed);
                },
                || {
                    told.recv().expect("the helper tells");
                    panic!("the caller's")
                },
            );
        });
        assert_eq!(of_caller.expect_err("it panicked").downcast_ref(), Some(&"the caller's"));
        assert_eq!(through.load(Ordering::Relaxed), 1);
    }
}
