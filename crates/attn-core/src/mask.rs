//! Masks that say what they mean: a bare bool tensor is never a mask.

/// Which truth value of a mask's elements means that a key is seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Polarity {
    /// `true` = seen.
    Keep,
    /// `true` = hidden.
    Hide,
}

/// A bool tensor together with its meaning. Its shape broadcasts to `[batch, heads, query_len, key_len]`: any axis may be 1.
///
/// `T` is the tensor: a `Tensor<4, Bool>` at the public face, a backend's primitive inside.
#[derive(Debug, Clone)]
pub struct Mask<T> {
    tensor: T,
    polarity: Polarity,
}

impl<T> Mask<T> {
    /// A mask whose `true` elements are seen.
    pub fn keep(tensor: T) -> Self {
        Self::new(tensor, Polarity::Keep)
    }

    /// A mask whose `true` elements are hidden (what Burn's own modules call a mask).
    pub fn hide(tensor: T) -> Self {
        Self::new(tensor, Polarity::Hide)
    }

    /// A mask with the polarity given.
    pub fn new(tensor: T, polarity: Polarity) -> Self {
        Self { tensor, polarity }
    }

    /// What `true` means.
    pub fn polarity(&self) -> Polarity {
        self.polarity
    }

    /// The tensor itself.
    pub fn tensor(&self) -> &T {
        &self.tensor
    }

    /// The tensor and what its `true` means.
    pub fn into_parts(self) -> (T, Polarity) {
        (self.tensor, self.polarity)
    }

    /// The same mask over another representation of its tensor.
    pub fn map<U>(self, f: impl FnOnce(T) -> U) -> Mask<U> {
        Mask::new(f(self.tensor), self.polarity)
    }
}
