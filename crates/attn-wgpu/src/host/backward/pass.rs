//! The launches by rows and by keys.

use attn_core::{Gradients, Problem, Upstream};
use burn_backend::DType;
use burn_backend::cubecl::dtype_to_storage_type;
use burn_cubecl::CubeBackend;
use burn_cubecl::cubecl::client::Client;
use burn_cubecl::cubecl::ir::{AddressType, ElemType};
use burn_cubecl::cubecl::{CubeCount, CubeDim};
use burn_cubecl::tensor::CubeTensor;

use crate::device::backward::STATISTICS;
use crate::device::backward::delta::attention_backward_delta;
use crate::device::backward::keys::{self, attention_backward_keys};
use crate::device::backward::rows::{self, attention_backward_rows};
use crate::device::place::ScalarsLaunch;
use crate::device::score::Options;
use crate::host::arguments::{self, bands, element, given, rows, width};
use crate::host::backward::{UNITS, addresses, each, empty, options};
use crate::host::launch::{Operands, spread};
use crate::host::machine::Machine;
use crate::host::taken::Launches;
use crate::host::tiles::Side;

/// Launches a kernel that makes scores again. All of them take the same inputs, and one sinks besides.
macro_rules! over_scores {
    ($pass:expr, $kernel:ident, ($cubes:expr, $units:expr), [$($sinks:expr)?], $($own:expr),+ $(,)?) => {{
        let operands = $pass.operands;
        $kernel::launch(
            $pass.client(),
            $pass.count($cubes),
            CubeDim::new_1d($units as u32),
            $pass.address,
            $pass.widths[0],
            $pass.widths[1],
            operands.query.clone().into_tensor_arg(),
            operands.key.clone().into_tensor_arg(),
            operands.value.clone().into_tensor_arg(),
            $pass.grad_out.clone().into_tensor_arg(),
            operands.mask.clone().map(CubeTensor::into_tensor_arg).into(),
            operands.bias.clone().map(CubeTensor::into_tensor_arg).into(),
            operands.slopes.clone().map(CubeTensor::into_tensor_arg).into(),
            $($sinks,)?
            $pass.bands.clone().map(CubeTensor::into_tensor_arg).into(),
            operands.blocks.clone().map(CubeTensor::into_tensor_arg).into(),
            operands.relative.clone().map(CubeTensor::into_tensor_arg).into(),
            $pass.statistics.clone().into_tensor_arg(),
            $($own),+
        )
    }};
}
pub(super) use over_scores;

/// What every launch of a pass takes.
pub struct Pass<'a> {
    pub problem: &'a Problem,
    pub operands: &'a Operands,
    /// dOut, or the output where it has no gradient: then it is not read.
    pub grad_out: CubeTensor,
    pub by_out: bool,
    /// To be told where one tensor is written by several.
    pub launches: &'a Launches,
    /// Where they are not the same for all.
    pub bands: Option<CubeTensor>,
    /// `[B, H, Sq, 4]`.
    pub statistics: CubeTensor,
    /// Elements of one load, along D and E.
    pub widths: [usize; 2],
    pub address: AddressType,
    options: Options,
    pub mask_element: ElemType,
}

impl<'a> Pass<'a> {
    /// Prepares the arguments, and takes the rows' statistics from the outputs.
    pub fn new(
        problem: &'a Problem,
        operands: &'a Operands,
        upstream: Upstream<CubeBackend>,
        made: &Gradients<CubeBackend>,
        launches: &'a Launches,
    ) -> Self {
        let (out, by_out) = (rows(upstream.out), upstream.grad_out.is_some());
        let grad_out = upstream.grad_out.map_or_else(|| out.clone(), rows);
        let (lse, grad_lse) = (upstream.lse, upstream.grad_lse);
        let statistics = empty(operands, &[problem.batch, problem.heads, problem.query_len, STATISTICS], DType::F32);
        let tensors = operands.all().chain([&out, &grad_out, &statistics, &lse]).chain(&grad_lse).chain(each(made));
        let address = tensors.map(CubeTensor::required_address_type).chain([addresses(problem)]).max();
        let is_cuda = Machine::of(&operands.query.device).is_cuda;
        let pass = Self {
            problem,
            operands,
            by_out,
            launches,
            bands: bands(problem, &operands.query.client, &operands.query),
            widths: [
                width(&[&operands.query, &operands.key], problem.head_dim, 4),
                width(&[&operands.value, &grad_out, &out], problem.value_dim, 4),
            ],
            address: address.unwrap_or_default(),
            // Scores are made again, and have to be the same.
            options: Options { apart: is_cuda, ..arguments::options(problem, operands.keep) },
            mask_element: operands.mask.as_ref().map_or(dtype_to_storage_type(DType::U32), element),
            grad_out,
            statistics,
        };
        pass.delta(out, lse, grad_lse);
        pass
    }

    pub fn client(&self) -> &Client {
        &self.operands.query.client
    }

    /// What a score goes through in a kernel of whose own optional tensors these are given.
    pub fn options(&self, own: &[bool]) -> Options {
        let all = [&[self.bands.is_some()], own].concat();
        Options { given: given(&all), ..self.options }
    }

    /// Room for at least `cubes` cubes.
    pub fn count(&self, cubes: usize) -> CubeCount {
        spread(cubes, self.client().properties().hardware.max_cube_count)
    }

    /// Numbers of a launch for tiles of `packed` heads.
    pub fn scalars(&self, packed: usize, tiles: usize, first_column: usize) -> ScalarsLaunch {
        let runs = (1, self.problem.key_len);
        arguments::scalars(self.problem, arguments::Cut { packed, tiles, runs, first_column })
    }

    /// The rows' statistics from the outputs.
    fn delta(&self, out: CubeTensor, lse: CubeTensor, grad_lse: Option<CubeTensor>) {
        let problem = self.problem;
        let rows = problem.batch * problem.heads * problem.query_len;
        let grad_out = self.by_out.then(|| self.grad_out.clone());
        let given = given(&[grad_out.is_some(), grad_lse.is_some()]);
        attention_backward_delta::launch(
            self.client(),
            self.count(rows.div_ceil(UNITS)),
            CubeDim::new_1d(UNITS as u32),
            self.address,
            self.widths[1],
            out.into_tensor_arg(),
            grad_out.map(CubeTensor::into_tensor_arg).into(),
            lse.into_tensor_arg(),
            grad_lse.map(CubeTensor::into_tensor_arg).into(),
            self.statistics.clone().into_tensor_arg(),
            rows,
            problem.heads,
            problem.query_len,
            f32::NEG_INFINITY,
            problem.value_dim,
            given,
            element(&self.operands.query),
        );
    }

    /// The same anew from the scores, in tiles where they are large. It reads what it writes, so that CubeCL does not launch it where
    /// the driver refused the last one.
    pub fn refine(&self, side: &Side) {
        self.rows(side, Columns { first: 0, count: 0 }, true, [None, None]);
    }

    /// dQ, and the rows' sums.
    pub fn by_rows(&self, side: &Side, grad: Option<&CubeTensor>, sums: Option<&CubeTensor>) {
        if grad.is_none() {
            if sums.is_some() {
                self.rows(side, Columns { first: 0, count: 0 }, false, [None, sums]);
            }
            return;
        }
        for columns in Columns::of(self.problem.head_dim, side.columns) {
            // Every launch finds the same sums; the first one writes them.
            self.again(columns, grad);
            self.rows(side, columns, false, [grad, sums.filter(|_| columns.first == 0)]);
        }
    }

    /// Before columns other than the first ones are written.
    fn again(&self, columns: Columns, grad: Option<&CubeTensor>) {
        if let (true, Some(grad)) = (columns.first > 0, grad) {
            self.launches.again(grad);
        }
    }

    fn rows(&self, side: &Side, columns: Columns, refine: bool, [grad, sums]: [Option<&CubeTensor>; 2]) {
        let (problem, operands) = (self.problem, self.operands);
        let sinks = operands.sinks.clone().filter(|_| refine);
        let config = rows::Config {
            head_dim: problem.head_dim,
            value_dim: problem.value_dim,
            columns: columns.count,
            block: side.block,
            options: self.options(&[sinks.is_some(), grad.is_some(), sums.is_some()]),
            by_out: self.by_out,
            refine,
        };
        over_scores!(
            self,
            attention_backward_rows,
            (side.cubes(problem), side.units),
            [sinks.map(CubeTensor::into_tensor_arg).into()],
            grad.cloned().map(CubeTensor::into_tensor_arg).into(),
            sums.cloned().map(CubeTensor::into_tensor_arg).into(),
            self.scalars(side.packed, side.tiles, columns.first),
            config,
            element(&operands.query),
            self.mask_element,
        );
    }

    /// dK and dV: in one launch where a unit has room for both, and the device for their buffers.
    pub fn by_keys(&self, side: &Side, key: Option<&CubeTensor>, value: Option<&CubeTensor>) {
        let Self { problem, by_out, .. } = *self;
        let none = Columns { first: 0, count: 0 };
        let value = value.filter(|_| by_out);
        let is_small = problem.head_dim + problem.value_dim <= side.columns;
        let is_bound = 8 + options(problem) <= self.client().properties().hardware.max_bindings;
        if let (Some(key), Some(value), true) = (key, value, is_small && is_bound) {
            let whole = [problem.head_dim, problem.value_dim].map(|count| Columns { first: 0, count });
            self.keys(side, whole, [Some(key), Some(value)]);
            return;
        }
        if key.is_some() {
            for columns in Columns::of(problem.head_dim, side.columns) {
                self.again(columns, key);
                self.keys(side, [columns, none], [key, None]);
            }
        }
        if value.is_some() {
            for columns in Columns::of(problem.value_dim, side.columns) {
                self.again(columns, value);
                self.keys(side, [none, columns], [None, value]);
            }
        }
    }

    fn keys(&self, side: &Side, columns: [Columns; 2], [key, value]: [Option<&CubeTensor>; 2]) {
        let (problem, operands) = (self.problem, self.operands);
        let config = keys::Config {
            head_dim: problem.head_dim,
            value_dim: problem.value_dim,
            key_columns: columns[0].count,
            value_columns: columns[1].count,
            block: side.block,
            options: self.options(&[key.is_some(), value.is_some()]),
            by_out: self.by_out,
        };
        over_scores!(
            self,
            attention_backward_keys,
            (side.cubes(problem), side.units),
            [],
            key.cloned().map(CubeTensor::into_tensor_arg).into(),
            value.cloned().map(CubeTensor::into_tensor_arg).into(),
            self.scalars(side.packed, side.tiles, columns[0].first.max(columns[1].first)),
            config,
            element(&operands.query),
            self.mask_element,
        );
    }
}

/// Columns of a gradient that one launch makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Columns {
    first: usize,
    count: usize,
}

impl Columns {
    /// Of `all`, at most `most` at a time.
    fn of(all: usize, most: usize) -> impl Iterator<Item = Self> {
        (0..all).step_by(most).map(move |first| Self { first, count: most.min(all - first) })
    }
}
