//! Optional tensors in boxes on their way through the dispatch. A tensor's record is some 200 bytes, and room for the five optional ones
//! would be moved from function to function whether they are there or not: it shows in calls of a few microseconds.

use burn::backend::tensor::{BoolTensor, FloatTensor};
use burn::backend::{
    Backend, BackendTensor, DispatchAutodiffContext, DispatchTensor, DispatchTensorKind, ExtensionType,
};

/// Something in a box, or nothing.
#[derive(Debug, Clone)]
pub struct Boxed<T>(Option<Box<T>>);

/// A float tensor.
#[derive(Debug, Clone, ExtensionType)]
pub struct Float<B: Backend> {
    pub tensor: FloatTensor<B>,
}

/// A bool tensor.
#[derive(Debug, Clone, ExtensionType)]
pub struct Bools<B: Backend> {
    pub tensor: BoolTensor<B>,
}

/// A float tensor that may be absent.
pub type BoxedFloat<B> = Boxed<Float<B>>;

/// A bool tensor that may be absent.
pub type BoxedBool<B> = Boxed<Bools<B>>;

impl<B: Backend> BoxedFloat<B> {
    /// From an option.
    pub fn float(tensor: Option<FloatTensor<B>>) -> Self {
        Self(tensor.map(|tensor| Box::new(Float { tensor })))
    }

    /// As an option of a reference.
    pub fn as_option(&self) -> Option<&FloatTensor<B>> {
        self.0.as_ref().map(|held| &held.tensor)
    }

    /// As an option.
    pub fn into_option(self) -> Option<FloatTensor<B>> {
        self.0.map(|held| held.tensor)
    }
}

impl<B: Backend> BoxedBool<B> {
    /// From an option.
    pub fn bools(tensor: Option<BoolTensor<B>>) -> Self {
        Self(tensor.map(|tensor| Box::new(Bools { tensor })))
    }

    /// As an option of a reference.
    pub fn as_option(&self) -> Option<&BoolTensor<B>> {
        self.0.as_ref().map(|held| &held.tensor)
    }

    /// As an option.
    pub fn into_option(self) -> Option<BoolTensor<B>> {
        self.0.map(|held| held.tensor)
    }
}

impl<B: Backend, T: ExtensionType<B>> ExtensionType<B> for Boxed<T> {
    type Target = Boxed<T::Target>;

    fn map_to_dispatch<F>(self, map_kind: F, autodiff: DispatchAutodiffContext) -> Self::Target
    where
        F: Fn(BackendTensor<B>) -> DispatchTensorKind,
    {
        Boxed(self.0.map(|held| Box::new(held.map_to_dispatch(map_kind, autodiff))))
    }

    fn map_from_dispatch<F>(target: Self::Target, unwrap_kind: F) -> Self
    where
        F: Fn(DispatchTensor) -> BackendTensor<B>,
    {
        Self(target.0.map(|held| Box::new(T::map_from_dispatch(*held, unwrap_kind))))
    }

    fn routing_tensor(target: &Self::Target) -> Option<&DispatchTensor> {
        target.0.as_deref().and_then(T::routing_tensor)
    }

    fn routing_float_tensor(target: &Self::Target) -> Option<&DispatchTensor> {
        target.0.as_deref().and_then(T::routing_float_tensor)
    }

    fn autodiff_context(target: &Self::Target) -> DispatchAutodiffContext {
        target.0.as_deref().map(T::autodiff_context).unwrap_or_default()
    }
}
