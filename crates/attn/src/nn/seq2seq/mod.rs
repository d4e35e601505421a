//! Recurrent and convolutional encoders, and a recurrent decoder that attends to what they made.
//!
//! | for | see |
//! | --- | --- |
//! | GRU and LSTM, a step at a time | [`RecurrentCell`], [`RecurrentState`] |
//! | GRU or LSTM over sequences with padding, either way or both, several layers | [`RecurrentEncoder`] |
//! | gated convolutions over sequences with padding | [`ConvolutionalEncoder`] |
//! | what is attended to: keys, values, padding | [`Memory`] |
//! | from an encoder's last states to a decoder's first | [`StateBridge`] |
//! | a recurrent decoder with attention, Bahdanau's or Luong's | [`AttendingDecoder`] |
//! | feeding it its own tokens while training | [`ScheduledSampling`] |

mod bridge;
mod cell;
mod convolutional;
mod decoder;
mod memory;
mod recurrent;
mod sampling;
mod score;

pub use bridge::{StateBridge, StateBridgeConfig};
pub use cell::{RecurrentCell, RecurrentCellConfig, RecurrentKind, RecurrentState};
pub use convolutional::{ConvolutionalEncoder, ConvolutionalEncoderConfig};
pub use decoder::{
    AttendingDecoder, AttendingDecoderConfig, AttendingOutput, AttendingState, AttendingStep, AttentionStyle,
};
pub use memory::{Memory, length_padding};
pub use recurrent::{Direction, RecurrentEncoder, RecurrentEncoderConfig, RecurrentEncoderOutput, RecurrentLayer};
pub use sampling::{SampledOutput, ScheduledSampling};
pub use score::{AlignmentAttention, AlignmentScore};
