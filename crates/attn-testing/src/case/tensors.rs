//! The tensors of a safetensors file as numbers on the host, checked as they are read.

use attn_core::reference::Broadcast;
use half::{bf16, f16};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensorError, SafeTensors};

use super::Fault;

/// The tensors of a file.
pub(super) struct Tensors<'a>(pub SafeTensors<'a>);

/// Shape and elements, widened.
pub(super) struct Floats {
    pub shape: Vec<usize>,
    pub values: Vec<f64>,
}

impl Floats {
    /// As a tensor that broadcasts to the scores.
    pub fn broadcast(self, name: &'static str) -> Result<Broadcast<f64>, Fault> {
        Ok(Broadcast { shape: last_of_four(name, &self.shape)?, data: self.values })
    }
}

impl Tensors<'_> {
    fn view(&self, name: &str) -> Option<TensorView<'_>> {
        self.0.tensor(name).ok()
    }

    /// Shape of a tensor that must be there.
    pub fn shape(&self, name: &'static str) -> Result<Vec<usize>, Fault> {
        Ok(self.view(name).ok_or(Fault::MissingTensor(name))?.shape().to_vec())
    }

    /// Type of a tensor that must be there, one of those allowed.
    pub fn dtype(&self, name: &'static str, allowed: &[Dtype]) -> Result<Dtype, Fault> {
        let dtype = self.view(name).ok_or(Fault::MissingTensor(name))?.dtype();
        check_dtype(name, dtype, allowed)?;
        Ok(dtype)
    }

    /// Checks the shape of a tensor that must be there.
    pub fn expect_shape(&self, name: &'static str, expected: &[usize]) -> Result<(), Fault> {
        check_shape(name, &self.shape(name)?, expected)
    }

    /// A float tensor of one of the types and of that shape, if it is there.
    pub fn floats(
        &self,
        name: &'static str,
        allowed: &[Dtype],
        shape: Option<&[usize]>,
    ) -> Result<Option<Floats>, Fault> {
        let Some(view) = self.view(name) else { return Ok(None) };
        check_dtype(name, view.dtype(), allowed)?;
        if let Some(shape) = shape {
            check_shape(name, view.shape(), shape)?;
        }
        let bytes = view.data();
        let values = match view.dtype() {
            Dtype::F16 => elements(bytes, |bytes| f16::from_le_bytes(bytes).to_f64()),
            Dtype::BF16 => elements(bytes, |bytes| bf16::from_le_bytes(bytes).to_f64()),
            _ => elements(bytes, |bytes| f64::from(f32::from_le_bytes(bytes))),
        };
        Ok(Some(Floats { shape: view.shape().to_vec(), values }))
    }

    /// An i32 tensor of that shape, if it is there.
    pub fn integers(&self, name: &'static str, shape: &[usize]) -> Result<Option<Vec<i32>>, Fault> {
        let Some(view) = self.view(name) else { return Ok(None) };
        check_dtype(name, view.dtype(), &[Dtype::I32])?;
        check_shape(name, view.shape(), shape)?;
        Ok(Some(elements(view.data(), i32::from_le_bytes)))
    }

    /// `keep_mask`, if it is there.
    pub fn keep_mask(&self) -> Result<Option<Broadcast<bool>>, Fault> {
        let name = "keep_mask";
        let Some(view) = self.view(name) else { return Ok(None) };
        check_dtype(name, view.dtype(), &[Dtype::U8])?;
        if let Some(byte) = view.data().iter().find(|&&byte| byte > 1) {
            return Err(Fault::Value { name, expected: "0 or 1".to_string(), found: byte.to_string() });
        }
        let shape = last_of_four(name, view.shape())?;
        Ok(Some(Broadcast { shape, data: view.data().iter().map(|&byte| byte == 1).collect() }))
    }
}

/// Four axes, or the fault that there are not.
pub(super) fn four(name: &'static str, shape: Vec<usize>) -> Result<[usize; 4], Fault> {
    <[usize; 4]>::try_from(shape).map_err(|found| Fault::Shape { name, expected: "of 4 axes".to_string(), found })
}

/// The four axes to which a tensor of up to four broadcasts: its own are the last of them, as everywhere in the field.
fn last_of_four(name: &'static str, shape: &[usize]) -> Result<[usize; 4], Fault> {
    let mut four = [1; 4];
    let Some(first) = four.len().checked_sub(shape.len()) else {
        return Err(Fault::Shape { name, expected: "of at most 4 axes".to_string(), found: shape.to_vec() });
    };
    four[first..].copy_from_slice(shape);
    Ok(four)
}

fn check_dtype(name: &'static str, found: Dtype, allowed: &[Dtype]) -> Result<(), Fault> {
    if allowed.contains(&found) {
        return Ok(());
    }
    let expected: Vec<String> = allowed.iter().map(|dtype| format!("{dtype:?}")).collect();
    Err(Fault::DType { name, expected: expected.join(" or "), found: format!("{found:?}") })
}

fn check_shape(name: &'static str, found: &[usize], expected: &[usize]) -> Result<(), Fault> {
    if found == expected {
        return Ok(());
    }
    Err(Fault::Shape { name, expected: format!("{expected:?}"), found: found.to_vec() })
}

fn elements<T, const N: usize>(bytes: &[u8], element: impl Fn([u8; N]) -> T) -> Vec<T> {
    bytes.as_chunks::<N>().0.iter().map(|bytes| element(*bytes)).collect()
}

/// Says what is wrong with bytes that the safetensors crate refuses: whether some are missing, or they are none of its own.
pub(super) fn not_safetensors(bytes: &[u8], error: &SafeTensorError) -> Fault {
    let found = bytes.len() as u64;
    let Some((length, rest)) = bytes.split_first_chunk::<8>() else {
        return Fault::NotSafetensors(format!("{found} bytes, fewer than the 8 of a header's length"));
    };
    let header = u64::from_le_bytes(*length);
    match error {
        SafeTensorError::InvalidHeaderLength if rest.first() == Some(&b'{') => {
            Fault::Truncated { expected: header.saturating_add(8), found }
        }
        SafeTensorError::MetadataIncompleteBuffer => match promised(rest, header) {
            Some(data) if data > found - 8 - header => Fault::Truncated { expected: data + 8 + header, found },
            _ => Fault::NotSafetensors(error.to_string()),
        },
        _ => Fault::NotSafetensors(error.to_string()),
    }
}

/// Bytes of data that a header promises: the largest end of a tensor.
fn promised(rest: &[u8], header: u64) -> Option<u64> {
    let header = rest.get(..usize::try_from(header).ok()?)?;
    let header: serde_json::Map<String, serde_json::Value> = serde_json::from_slice(header).ok()?;
    header.values().filter_map(|tensor| tensor.get("data_offsets")?.get(1)?.as_u64()).max()
}
