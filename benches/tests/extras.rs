//! Ours and every peer answer shapes with all options rightly: a ratio compares the same problem.

use attn_benches::backend::Backend;
use attn_benches::check::check;
use attn_benches::contestants::{Peers, enter};
use attn_benches::inputs::Inputs;
use attn_benches::oracle::Expected;
use attn_benches::shapes::{BiasKind, Dtype, Extras, MaskKind, Shape, Suite, Window};

fn shapes() -> Vec<Shape> {
    let masks = [None, Some(MaskKind::Padding), Some(MaskKind::Documents(17)), Some(MaskKind::Pairs)];
    let biases = [None, Some(BiasKind::Heads), Some(BiasKind::Keys)];
    let mut shapes = Vec::new();
    for n in 0..48 {
        let extras = Extras {
            value_dim: (n % 5 == 1).then_some(24),
            ragged: n % 3 == 1,
            mask: masks[n % 4],
            bias: biases[n % 3],
            alibi: n % 7 == 2,
            sinks: n % 11 == 3,
        };
        shapes.push(Shape {
            dtype: [Dtype::F32, Dtype::Bf16, Dtype::F16][n / 4 % 3],
            kv_heads: if n % 2 == 0 { 4 } else { 2 },
            query_len: 33,
            key_len: if n % 4 < 2 { 33 } else { 70 },
            causal: n % 2 == 1,
            window: (n % 6 == 4).then_some(Window { left: 20, right: 5 }),
            softcap: (n % 13 == 5).then_some(3.0),
            extras,
            ..Shape::square(Suite::Sweep, [3, 4, 33, 20])
        });
    }
    shapes
}

#[test]
fn everyone_answers_what_the_oracle_does() {
    let mut answered = 0;
    for shape in shapes() {
        let inputs = Inputs::of(&shape);
        let expected = Expected::of(&shape, &inputs);
        let backends: Vec<Backend> =
            Backend::ALL.iter().copied().filter(|backend| matches!(backend.name(), "flex" | "tch")).collect();
        for contestant in enter(&shape, &inputs, &backends, Peers::Fastest).expect("ours does every shape") {
            // Burn's operation through separate ones in a half type rounds its scores to it: no bound of ours holds.
            if !contestant.is_ours() && contestant.name.starts_with("burn") && shape.dtype != Dtype::F32 {
                continue;
            }
            let outcome = contestant.run().unwrap_or_else(|error| panic!("{shape}: {}: {error:#}", contestant.name));
            if let Err(error) = check(&shape, &expected, &outcome, contestant.is_ours()) {
                panic!("{shape}: {} on {}: {error:#}", contestant.name, contestant.backend);
            }
            answered += 1;
        }
    }
    println!("{answered} answers");
    assert!(answered >= 48, "{answered}");
}
