//! Tests of recurrent and convolutional encoders and of the attending decoder, by loops in f64.

mod convolutional;
mod decoder;
mod recurrent;
mod sampling;

use burn::nn::Linear;
use burn::tensor::Tensor;

use super::elements;
use crate::nn::seq2seq::{RecurrentCell, RecurrentKind};

/// `x·W + b`, a sum at a time.
fn linear(linear: &Linear, x: &[f64]) -> Vec<f64> {
    let (weight, [d_in, d_out]) = (elements(linear.weight.val()), linear.weight.val().dims());
    assert_eq!(x.len(), d_in);
    let bias = linear.bias.as_ref().map_or(vec![0.0; d_out], |bias| elements(bias.val()));
    (0..d_out).map(|o| bias[o] + (0..d_in).map(|i| x[i] * weight[i * d_out + o]).sum::<f64>()).collect()
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// One step of a cell by its formula; the state is h and, of an LSTM, m.
fn step(cell: &RecurrentCell, x: &[f64], (h, m): (&[f64], &[f64])) -> (Vec<f64>, Vec<f64>) {
    let (a, b, size) = (linear(&cell.input, x), linear(&cell.hidden, h), h.len());
    let mut next = (vec![0.0; size], vec![0.0; size]);
    for i in 0..size {
        let both = |block: usize| a[block * size + i] + b[block * size + i];
        match cell.kind() {
            RecurrentKind::Gru => {
                let (r, z) = (sigmoid(both(0)), sigmoid(both(1)));
                let n = (a[2 * size + i] + r * b[2 * size + i]).tanh();
                next.0[i] = (1.0 - z) * n + z * h[i];
            }
            RecurrentKind::Lstm => {
                next.1[i] = sigmoid(both(1)) * m[i] + sigmoid(both(0)) * both(2).tanh();
                next.0[i] = sigmoid(both(3)) * next.1[i].tanh();
            }
        }
    }
    next
}

/// The vectors along the last axis.
fn vectors(tensor: Tensor<3>) -> Vec<Vec<f64>> {
    let width = tensor.dims()[2];
    elements(tensor).chunks(width).map(<[f64]>::to_vec).collect()
}
