//! What the driver refuses is an error of a call of several launches into one tensor, also where its kind of call is known: a launch
//! that it takes would wipe out the mark of one before.
#![cfg(feature = "wgpu")]

use attn_core::{AttentionError, AttentionInputs, AttentionKernel, AttentionSpec, Upstream, Wanted};
use attn_wgpu::{Cube, CubeBackend, CubeDevice};
use burn_backend::ops::FloatTensorOps;
use burn_backend::{DType, Distribution, FloatDType, Shape};
use burn_cubecl::ops::numeric::empty_device_contiguous_dtype;
use burn_cubecl::tensor::CubeTensor;

/// Too wide for one launch: D and E.
const WIDE: usize = 300;
const LENGTH: usize = 3;
/// Distances of a table, so that there are some between its ends.
const DISTANCES: usize = 5;

/// What is asked of a problem.
#[derive(Debug, Clone, Copy)]
enum Asked {
    Forward,
    Backward(fn(Wanted) -> Wanted),
}

fn random(device: &CubeDevice, shape: &[usize]) -> CubeTensor {
    CubeBackend::float_random(Shape::from(shape.to_vec()), Distribution::Uniform(-1.0, 1.0), device, FloatDType::F32)
}

/// One that was never written, since it follows from one that no driver has room for. None where the runtime panics at that.
fn unwritten(device: &CubeDevice, shape: &[usize]) -> Option<CubeTensor> {
    let huge = || empty_device_contiguous_dtype(device.client(), device.clone(), Shape::new([1 << 42]), DType::F32);
    let first = std::panic::catch_unwind(|| CubeBackend::float_slice(huge(), &[(0..1).into()])).ok()?;
    Some(CubeBackend::float_add(random(device, shape), CubeBackend::float_reshape(first, Shape::new([1; 4]))))
}

/// Asks, with a query that is there or was never written.
fn ask(device: &CubeDevice, asked: Asked, query: CubeTensor) -> Result<(), AttentionError> {
    let rows = |width: usize| random(device, &[1, 1, LENGTH, width]);
    let mut inputs = AttentionInputs::<CubeBackend>::new(query, rows(WIDE), rows(WIDE));
    inputs.relative_bias = Some(random(device, &[1, DISTANCES]));
    let problem = inputs.problem(&AttentionSpec::default())?;
    match asked {
        Asked::Forward => Cube::Rows.forward(&problem, inputs, true).map(|_| ()),
        Asked::Backward(wanted) => {
            let lse = random(device, &[1, 1, LENGTH]);
            let upstream = Upstream { out: rows(WIDE), lse, grad_out: Some(rows(WIDE)), grad_lse: None };
            Cube::Rows.backward(&problem, inputs, upstream, wanted(Wanted::default())).map(|_| ())
        }
    }
}

#[test]
fn a_refusal_before_a_launch_that_is_taken_is_an_error() {
    let Some(device) = CubeDevice::enumerate_all().into_iter().next() else {
        println!("skipped: there is no adapter");
        return;
    };
    let shape = [1, 1, LENGTH, WIDE];
    for (what, asked) in [
        ("columns of values", Asked::Forward),
        ("columns of dQ", Asked::Backward(|none| Wanted { query: true, ..none })),
        ("columns of dK", Asked::Backward(|none| Wanted { key: true, ..none })),
        ("columns of dV", Asked::Backward(|none| Wanted { value: true, ..none })),
        ("a table's gradient", Asked::Backward(|none| Wanted { relative_bias: true, ..none })),
    ] {
        // From the second call on the kind is known.
        for _ in 0..2 {
            assert_eq!(ask(&device, asked, random(&device, &shape)), Ok(()), "{what}");
        }
        let Some(query) = unwritten(&device, &shape) else {
            println!("skipped: the runtime panics where a tensor does not fit");
            return;
        };
        let found = ask(&device, asked, query);
        assert!(matches!(found, Err(AttentionError::Execution { .. })), "{what}: {found:?}");
    }
}
