//! What a GPU's driver refuses is an error, never zeros: that of the call, or that of reading what the call gave.

use attn::Attention;
use attn_testing::panics;
use burn::tensor::{Device, Tensor};

use super::wgpu::{ROWS, engine};

/// 8 GiB of f32, beyond what a software driver gives to one buffer.
const HUGE: [usize; 2] = [1 << 16, 1 << 15];

fn device() -> Option<Device> {
    engine().map(|engine| engine.device().expect("it has tensors").clone())
}

/// The numbers of the output, or why there are none.
fn numbers(call: Attention) -> Result<Vec<f32>, String> {
    panics::catch(|| {
        let out = call.kernel(ROWS).forward().map_err(|error| error.to_string())?.out;
        let data = out.try_into_data().map_err(|error| error.to_string())?;
        data.try_to_vec().map_err(|error| format!("{error:?}"))
    })
    .and_then(|found| found)
}

/// A tensor of ones cut out of one that may be too large to be.
fn cut_from_huge(device: &Device) -> Tensor<4> {
    let [rows, columns] = HUGE;
    Tensor::<4>::ones([1, 1, rows, columns], device).slice([0..1, 0..1, 0..4, 0..8])
}

#[test]
fn an_output_that_does_not_fit_is_an_error() {
    let Some(device) = device() else { return };
    let [rows, columns] = HUGE;
    let ones = |shape: [usize; 4]| Tensor::<4>::ones(shape, &device);
    let (query, key) = (ones([1, 1, rows, 1]), ones([1, 1, 1, 1]));
    // Twice: a refusal is not forgotten. The driver is always asked about a call that makes as much.
    for _ in 0..2 {
        let call = Attention::new(query.clone(), key.clone(), ones([1, 1, 1, columns])).kernel(ROWS);
        let Ok(out) = call.forward().map(|outputs| outputs.out) else { continue };
        let corner = panics::catch(|| out.slice([0..1, 0..1, rows - 1..rows, columns - 4..columns]).try_into_data());
        match corner.map(|read| read.map(|data| data.try_to_vec::<f32>().unwrap())) {
            Ok(Ok(corner)) => assert_eq!(corner, [1.0; 4], "neither an error nor the output"),
            // With fusion the call has not run yet when it returns.
            _ if cfg!(feature = "fusion") => {}
            error => panic!("the call gave an output that can't be read: {error:?}"),
        }
    }
}

#[test]
fn what_follows_from_an_error_is_an_error() {
    let Some(device) = device() else { return };
    let ones = || Tensor::<4>::ones([1, 1, 4, 8], &device);
    // The kind of the calls is known, so that the driver is not asked about the next.
    assert_eq!(numbers(Attention::new(ones(), ones(), ones())), Ok(vec![1.0; 32]));
    let huge = panics::catch(|| cut_from_huge(&device));
    let Ok(value) = huge else {
        println!("skipped: the runtime panics where a tensor does not fit");
        return;
    };
    let found = numbers(Attention::new(ones(), ones(), value));
    assert!(found.clone().map_or(true, |found| found == [1.0; 32]), "neither an error nor the output: {found:?}");
    // And the next one is as it was.
    assert_eq!(numbers(Attention::new(ones(), ones(), ones())), Ok(vec![1.0; 32]));
}
