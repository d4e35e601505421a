//! Problems of every option, with their numbers on the host.

use attn_core::reference::{Broadcast, HostInputs};
use attn_core::{Alignment, AttentionError, AttentionSpec, Polarity, Problem, ProblemInputs, TensorInfo, Window};
use burn::tensor::{BoolStore, DType};

/// Lengths of the axes: B, H, G, Sq, Sk, D and E.
#[derive(Debug, Clone, Copy)]
pub struct Dims {
    pub batch: usize,
    pub heads: usize,
    pub kv_heads: usize,
    pub query_len: usize,
    pub key_len: usize,
    pub head_dim: usize,
    pub value_dim: usize,
}

impl Dims {
    pub fn query(&self) -> [usize; 4] {
        [self.batch, self.heads, self.query_len, self.head_dim]
    }

    pub fn key(&self) -> [usize; 4] {
        [self.batch, self.kv_heads, self.key_len, self.head_dim]
    }

    pub fn value(&self) -> [usize; 4] {
        [self.batch, self.kv_heads, self.key_len, self.value_dim]
    }

    pub fn out(&self) -> [usize; 4] {
        [self.batch, self.heads, self.query_len, self.value_dim]
    }
}

/// A problem with its numbers.
#[derive(Debug, Clone)]
pub struct Asked {
    pub name: &'static str,
    pub dims: Dims,
    pub spec: AttentionSpec,
    pub kv_lens: Option<Vec<usize>>,
    pub inputs: HostInputs,
    /// `[B, H, Sq, E]`.
    pub grad_out: Vec<f64>,
}

/// What a problem has beside query, key and value.
#[derive(Debug, Clone, Copy, Default)]
struct Extras {
    mask: bool,
    bias: bool,
    slopes: bool,
    relative: bool,
    sinks: bool,
}

/// All of them.
pub fn all() -> Vec<Asked> {
    let plain = Extras::default();
    let causal = || AttentionSpec { causal: true, ..AttentionSpec::default() };
    let window = Window { left: Some(20), right: Some(3) };
    let grouped = [2, 6, 2, 37, 53, 32, 32];
    let mut all = vec![
        asked("plain", [1, 2, 2, 65, 67, 64, 64], AttentionSpec::default(), plain),
        asked("causal, shared heads", grouped, causal(), plain),
        asked("causal, more queries than keys", [1, 2, 1, 70, 40, 16, 16], causal(), plain),
        asked("a window", grouped, AttentionSpec { window, ..AttentionSpec::default() }, plain),
        asked(
            "a window from the top left",
            grouped,
            AttentionSpec { window, alignment: Alignment::TopLeft, ..AttentionSpec::default() },
            plain,
        ),
        asked(
            "scale and softcap",
            grouped,
            AttentionSpec { scale: Some(0.7), softcap: Some(2.0), ..AttentionSpec::default() },
            plain,
        ),
        asked("a mask that hides whole rows", grouped, AttentionSpec::default(), Extras { mask: true, ..plain }),
        asked("a bias and sinks", grouped, causal(), Extras { bias: true, sinks: true, ..plain }),
        asked("ALiBi", grouped, causal(), Extras { slopes: true, ..plain }),
        asked("a bias by relative position", grouped, AttentionSpec::default(), Extras { relative: true, ..plain }),
        asked("one query, long keys", [1, 8, 2, 1, 3000, 64, 64], causal(), plain),
        asked("wide values", [1, 2, 2, 33, 70, 40, 300], causal(), plain),
    ];
    let mut lengths = asked("key lengths", grouped, causal(), plain);
    lengths.kv_lens = Some(vec![53, 20]);
    all.push(lengths);
    all
}

fn asked(name: &'static str, lengths: [usize; 7], spec: AttentionSpec, extras: Extras) -> Asked {
    let [batch, heads, kv_heads, query_len, key_len, head_dim, value_dim] = lengths;
    let dims = Dims { batch, heads, kv_heads, query_len, key_len, head_dim, value_dim };
    let mut numbers = Numbers(name.len() as u32);
    let scores = [1, heads, query_len, key_len];
    let per_head = |given: bool, numbers: &mut Numbers| given.then(|| numbers.take(heads));
    let inputs = HostInputs {
        query: numbers.take(dims.query().iter().product()),
        key: numbers.take(dims.key().iter().product()),
        value: numbers.take(dims.value().iter().product()),
        mask: extras.mask.then(|| (seen(scores), Polarity::Keep)),
        bias: extras.bias.then(|| Broadcast { shape: scores, data: numbers.take(scores.iter().product()) }),
        alibi_slopes: per_head(extras.slopes, &mut numbers),
        relative_bias: extras.relative.then(|| {
            let shape = [1, heads, 1, 2 * 16 + 1];
            Broadcast { shape, data: numbers.take(shape.iter().product()) }
        }),
        sinks: per_head(extras.sinks, &mut numbers),
    };
    let grad_out = numbers.take(dims.out().iter().product());
    Asked { name, dims, spec, kv_lens: None, inputs, grad_out }
}

/// Two of three keys, and nothing for every fifth query.
fn seen(shape: [usize; 4]) -> Broadcast<bool> {
    let [_, heads, queries, keys] = shape;
    let data = (0..heads * queries * keys).map(|at| {
        let (head, query, key) = (at / (queries * keys), at / keys % queries, at % keys);
        query % 5 != 4 && (head + query + key) % 3 != 0
    });
    Broadcast { shape, data: data.collect() }
}

/// Numbers between −1 and 1 that f32 holds, without a pattern, the same each time.
struct Numbers(u32);

impl Numbers {
    fn take(&mut self, count: usize) -> Vec<f64> {
        (0..count).map(|_| self.next()).collect()
    }

    fn next(&mut self) -> f64 {
        // A linear congruential generator; its upper bits are the good ones.
        self.0 = self.0.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        f64::from(self.0 >> 8) / f64::from(1u32 << 23) - 1.0
    }
}

impl Asked {
    /// The validated problem.
    ///
    /// # Errors
    /// As [`Problem::new`].
    pub fn problem(&self) -> Result<Problem, AttentionError> {
        let float = |shape: &[usize]| TensorInfo { shape: shape.into(), dtype: DType::F32 };
        let per_head = |data: &Option<Vec<f64>>| data.as_ref().map(|data| float(&[data.len()]));
        let mask = self.inputs.mask.as_ref();
        Problem::new(
            &self.spec,
            &ProblemInputs {
                mask: mask
                    .map(|(mask, _)| TensorInfo { shape: mask.shape.into(), dtype: DType::Bool(BoolStore::Native) }),
                bias: self.inputs.bias.as_ref().map(|bias| float(&bias.shape)),
                alibi_slopes: per_head(&self.inputs.alibi_slopes),
                relative_bias: self.inputs.relative_bias.as_ref().map(|table| float(&table_shape(table))),
                sinks: per_head(&self.inputs.sinks),
                kv_lens: self.kv_lens.as_deref(),
                ..ProblemInputs::new(float(&self.dims.query()), float(&self.dims.key()), float(&self.dims.value()))
            },
        )
    }
}

/// `[H, 2·R + 1]`.
pub fn table_shape(table: &Broadcast<f64>) -> [usize; 2] {
    [table.shape[1], table.shape[3]]
}
