//! The kernels named `cube`, `cube-decode`, `cube-decode-mma`, `cube-matrix`, `cube-mma` and `cube-wgmma`.

use attn_core::{
    AttentionError, AttentionInputs, AttentionKernel, AttentionOutputs, Gradients, Pass, Problem, Upstream, Wanted,
};
use burn_backend::{Backend, FloatDType};
use burn_cubecl::cubecl::ir::AddressType;
use burn_cubecl::{CubeBackend, CubeDevice};

use crate::device::backward::STATISTICS;
use crate::host::arguments::{LARGEST, has_bands};
use crate::host::backward::{self, UNITS};
use crate::host::launch::{self, Operands};
use crate::host::machine::Machine;
use crate::host::taken::Kind;
use crate::host::tiles::{BackwardTiles, Tiles};
use crate::host::trial;

/// Fused attention on any device of CubeCL's runtimes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Cube {
    /// `cube`: every unit has rows of its own; in the backward pass keys besides. Any adapter, any type.
    Rows,
    /// `cube-decode`: units share the dimensions of the rows, up to 32 that share keys. Any type, where planes exchange numbers.
    Decode,
    /// `cube-decode-mma`: matrix instructions multiply up to 16 rows that share keys. f16 and bf16, dimensions of 32, 64… and 64, 128…,
    /// NVIDIA's cards.
    DecodeMma,
    /// `cube-matrix`: matrix units multiply. f16 and bf16, where the device has them.
    Matrix,
    /// `cube-mma`: matrix instructions whose registers are known. f16 and bf16, dimensions of whole matrices, NVIDIA's cards.
    Mma,
    /// `cube-wgmma`: asynchronous matrix instructions of groups of planes. f16 and bf16, dimensions of whole matrices, the H100's
    /// generation of NVIDIA's cards.
    Wgmma,
}

impl Cube {
    /// All of them, the preferred one first.
    pub const ALL: [Self; 6] = [Self::DecodeMma, Self::Decode, Self::Wgmma, Self::Mma, Self::Matrix, Self::Rows];

    /// How the problem is cut.
    ///
    /// # Errors
    /// Why this kernel can't serve it.
    fn tiles(self, problem: &Problem, device: &CubeDevice) -> Result<Tiles, String> {
        let machine = Machine::of(device);
        match self {
            Self::Rows => Ok(Tiles::by_rows(problem, &machine)),
            Self::Decode => Tiles::by_dimensions(problem, &machine),
            Self::DecodeMma => {
                let tiles = Tiles::by_few(problem, &machine)?;
                trial::few(device, problem.dtype, &machine)?;
                Ok(tiles)
            }
            Self::Matrix => {
                let tiles = Tiles::by_matrices(problem, &machine)?;
                trial::matrices(device, problem.dtype, &machine)?;
                Ok(tiles)
            }
            Self::Mma => {
                let tiles = Tiles::by_instructions(problem, &machine)?;
                trial::instructions(device, problem.dtype, &machine)?;
                Ok(tiles)
            }
            Self::Wgmma => {
                let tiles = Tiles::by_groups(problem, &machine)?;
                trial::groups(device, problem.dtype, &machine)?;
                Ok(tiles)
            }
        }
    }

    fn refusal(self, reason: String) -> AttentionError {
        AttentionError::Unsupported { kernel: AttentionKernel::<CubeBackend>::name(&self).to_string(), reason }
    }
}

impl AttentionKernel<CubeBackend> for Cube {
    fn name(&self) -> &'static str {
        match self {
            Self::Rows => "cube",
            Self::Decode => "cube-decode",
            Self::DecodeMma => "cube-decode-mma",
            Self::Matrix => "cube-matrix",
            Self::Mma => "cube-mma",
            Self::Wgmma => "cube-wgmma",
        }
    }

    fn supports(&self, device: &CubeDevice, problem: &Problem, pass: Pass) -> Result<(), String> {
        match pass {
            Pass::Forward => supports(*self, device, problem).map(|_| ()),
            Pass::Backward => supports_backward(*self, device, problem).map(|_| ()),
        }
    }

    fn advises(&self, device: &CubeDevice, problem: &Problem, _pass: Pass) -> Result<(), String> {
        let machine = Machine::of(device);
        match self {
            Self::Matrix if machine.is_software => {
                Err("a software driver multiplies matrices number by number".to_string())
            }
            Self::Decode => Tiles::advises_dimensions(problem, &machine),
            _ => Ok(()),
        }
    }

    fn cut(&self, device: &CubeDevice, problem: &Problem, pass: Pass) -> Option<String> {
        match pass {
            Pass::Forward => self.tiles(problem, device).ok().map(|tiles| tiles.to_string()),
            Pass::Backward => Some(BackwardTiles::new(problem, &Machine::of(device)).to_string()),
        }
    }

    fn workspace_bytes(&self, device: &CubeDevice, problem: &Problem, pass: Pass) -> u64 {
        let blocks = problem.block_mask.as_deref().map_or(0, |mask| mask.table().len() + 128 * mask.patterns().len());
        let bands = if has_bands(problem) { problem.batch as u64 * 16 } else { 0 };
        let host = bands + blocks as u64 * 4;
        if pass == Pass::Backward {
            return host + backward::bytes(problem);
        }
        let Ok(tiles) = self.tiles(problem, device) else { return host };
        if tiles.splits == 1 || problem.is_empty() {
            return host;
        }
        let rows = (problem.batch * problem.heads * problem.query_len) as u64;
        host + 4 * tiles.splits as u64 * rows * (problem.value_dim as u64 + 1)
    }

    fn forward(
        &self,
        problem: &Problem,
        inputs: AttentionInputs<CubeBackend>,
        lse: bool,
    ) -> Result<AttentionOutputs<CubeBackend>, AttentionError> {
        let device = inputs.query.device.clone();
        let tiles = supports(*self, &device, problem).map_err(|reason| self.refusal(reason))?;
        let operands = Operands::new(problem, inputs);
        let numbers = tiles.splits * problem.batch * problem.heads * problem.query_len * problem.value_dim;
        let launches = Kind::new(*self, device, problem, operands.keep)
            .with((tiles.compiled(), lse, AddressType::from_len(numbers)))
            .of(operands.all())
            .launches((numbers * size_of::<f32>()) as u64);
        let (out, found) = launch::forward(problem, &operands, &tiles, lse, &launches);
        launches.end([&out].into_iter().chain(&found))?;
        Ok(AttentionOutputs { out, lse: found })
    }

    fn backward(
        &self,
        problem: &Problem,
        inputs: AttentionInputs<CubeBackend>,
        upstream: Upstream<CubeBackend>,
        wanted: Wanted,
    ) -> Result<Gradients<CubeBackend>, AttentionError> {
        let device = inputs.query.device.clone();
        let tiles = supports_backward(*self, &device, problem).map_err(|reason| self.refusal(reason))?;
        let operands = Operands::new(problem, inputs);
        let given = [upstream.grad_out.is_some(), upstream.grad_lse.is_some()];
        let inputs: u64 = operands.all().map(|tensor| tensor.handle.size()).sum();
        let launches = Kind::new(*self, device, problem, operands.keep)
            .with((tiles.compiled(), backward::compiled(problem), given, wanted))
            .of(operands.all().chain(&upstream.grad_out).chain([&upstream.out]))
            .launches(inputs + backward::bytes(problem));
        let made = backward::backward(problem, &operands, upstream, wanted, &tiles, &launches);
        launches.end(backward::each(&made))?;
        Ok(made)
    }
}

const NO_BACKWARD: &str = "it has no backward pass";

/// How the problem is cut, where it is served.
fn supports(kernel: Cube, device: &CubeDevice, problem: &Problem) -> Result<Tiles, String> {
    serves(kernel, device, problem, bindings(problem))?;
    let tiles = kernel.tiles(problem, device)?;
    let (wide, most_cubes) = limits(device);
    fits(problem, &tiles, wide, most_cubes)?;
    Ok(tiles)
}

/// How its backward pass is cut, where that is served.
fn supports_backward(kernel: Cube, device: &CubeDevice, problem: &Problem) -> Result<BackwardTiles, String> {
    if kernel != Cube::Rows {
        return Err(NO_BACKWARD.to_string());
    }
    serves(kernel, device, problem, backward::bindings(problem))?;
    let tiles = BackwardTiles::new(problem, &Machine::of(device));
    let (wide, most_cubes) = limits(device);
    fits_backward(problem, &tiles, wide, most_cubes)?;
    Ok(tiles)
}

/// Whether the device counts beyond 2³², and the most cubes of a launch.
fn limits(device: &CubeDevice) -> (bool, u64) {
    let client = device.client();
    let properties = client.properties();
    let (along, up, _) = properties.hardware.max_cube_count;
    let most = u64::from(along) * u64::from(up).min(u64::from(along));
    (properties.features.supports_address(AddressType::U64), most)
}

/// Whether the kernel knows all that the problem has, and the device has room for as many bindings.
fn serves(kernel: Cube, device: &CubeDevice, problem: &Problem, needed: u32) -> Result<(), String> {
    let refuse = |reason: &str| Err(reason.to_string());
    if problem.is_empty() || problem.key_len == 0 || problem.value_dim == 0 {
        return refuse("an axis has length 0");
    }
    if problem.score_mod.is_some() {
        return refuse("a function of the scores runs on the host");
    }
    if problem.block_mask.is_some() && kernel != Cube::Rows {
        return refuse("it knows no masks by blocks");
    }
    if problem.dropout.is_some() && kernel != Cube::Rows {
        return refuse("it drops no weights");
    }
    if problem.relative_bias.is_some() && kernel != Cube::Rows {
        return refuse("it knows no bias by relative position");
    }
    if problem.dtype == FloatDType::F64 {
        return refuse("it accumulates in f32, and f64 is to be accumulated in f64");
    }
    if problem.query_len as i64 >= LARGEST || problem.key_len as i64 >= LARGEST {
        return Err(format!("lengths of {LARGEST} and more"));
    }
    if problem.alibi && problem.bands.iter().any(|band| band.offset.abs() >= LARGEST) {
        return Err(format!("ALiBi at positions of {LARGEST} and more"));
    }
    // Offsets past the largest are taken for it: there every key is further off than the table reaches.
    if problem
        .relative_bias
        .is_some_and(|[_, distances]| (distances + problem.query_len + problem.key_len) as i64 >= LARGEST)
    {
        return Err(format!("a bias by relative position of {LARGEST} and more distances"));
    }
    if !CubeBackend::supports_dtype(device, problem.dtype.into()) {
        return Err(format!("the device has no {:?}", problem.dtype));
    }
    let most = device.client().properties().hardware.max_bindings;
    if needed > most {
        return Err(format!("it binds {needed} buffers, the device takes {most}"));
    }
    Ok(())
}

/// Whether every index fits the addresses that the device has, and the cubes their two axes.
fn fits(problem: &Problem, tiles: &Tiles, wide: bool, most_cubes: u64) -> Result<(), String> {
    let [rows, keys] = elements(problem);
    fits_addresses(keys.max(rows * tiles.splits as u128), wide)?;
    fits_cubes(product([tiles.tiles, tiles.splits, problem.batch, problem.heads / tiles.packed]), most_cubes)
}

/// As [`fits`], of the backward pass.
fn fits_backward(problem: &Problem, tiles: &BackwardTiles, wide: bool, most_cubes: u64) -> Result<(), String> {
    let rows = product([problem.batch, problem.heads, problem.query_len]);
    let numbers = [backward::of_bias(problem), backward::of_table(problem)].into_iter().flatten();
    let made = numbers.clone().map(|[numbers, _]| numbers).max().unwrap_or(0) as u128;
    // Pairs that read a number are counted as well.
    let read = numbers.map(|[_, pairs]| pairs).max().unwrap_or(0) as u128;
    let largest = elements(problem).into_iter().chain([rows * STATISTICS as u128, made, read]).max();
    fits_addresses(largest.unwrap_or(0), wide)?;
    for side in [tiles.rows, tiles.keys] {
        fits_cubes(product([side.tiles, problem.batch, problem.heads / side.packed]), most_cubes)?;
    }
    // A unit for each, or for a run of pairs of it where there are few.
    let units = rows.max(made).max(product([UNITS, UNITS, UNITS]));
    fits_cubes(units.div_ceil(UNITS as u128), most_cubes)
}

fn product<const N: usize>(factors: [usize; N]) -> u128 {
    factors.iter().map(|&factor| factor as u128).product()
}

/// Elements of the larger one of query and output, and of key and value.
fn elements(problem: &Problem) -> [u128; 2] {
    let dim = problem.head_dim.max(problem.value_dim);
    let rows = product([problem.batch, problem.heads, problem.query_len, dim]);
    [rows, product([problem.batch, problem.kv_heads, problem.key_len, dim])]
}

fn fits_addresses(largest: u128, wide: bool) -> Result<(), String> {
    if !wide && largest > u128::from(u32::MAX) {
        return Err(format!("a tensor of {largest} elements, where the device counts to 2³²"));
    }
    Ok(())
}

fn fits_cubes(cubes: u128, most: u64) -> Result<(), String> {
    if cubes > u128::from(most) || cubes > u128::from(u32::MAX) {
        return Err(format!("{cubes} cubes, where the device takes {most}"));
    }
    Ok(())
}

/// Buffers of a launch with the LSE: query, key, value, output, LSE, shapes, and what else is given.
fn bindings(problem: &Problem) -> u32 {
    let blocks = problem.block_mask.is_some();
    let relative = problem.relative_bias.is_some();
    let given = [problem.mask.is_some(), problem.bias.is_some(), problem.alibi, relative, problem.sinks, blocks];
    6 + u32::from(has_bands(problem)) + given.into_iter().map(u32::from).sum::<u32>()
}

#[cfg(test)]
mod tests {
    use attn_core::{AttentionSpec, ProblemInputs, TensorInfo};
    use burn_backend::DType;

    use super::*;
    use crate::host::tiles::{RowTiles, Way};

    fn problem([batch, heads, query_len, key_len, dim]: [usize; 5]) -> Problem {
        let info = |length| TensorInfo { shape: [batch, heads, length, dim].into(), dtype: DType::F16 };
        let inputs = ProblemInputs::new(info(query_len), info(key_len), info(key_len));
        Problem::new(&AttentionSpec::default(), &inputs).expect("it is a problem")
    }

    fn tiles(splits: usize) -> Tiles {
        let way = Way::Rows(RowTiles { rows: 1, block: 8, edge: 8, plane: 0 });
        Tiles { units: 64, rows: 64, packed: 1, tiles: 1, splits, run: 8, columns: 64, way }
    }

    #[test]
    fn what_is_too_large_is_refused_and_says_how_large() {
        let long = problem([1, 1, 1, 1 << 26, 64]);
        let refused = fits(&long, &tiles(1), false, 1 << 30).expect_err("2³² elements are one too many for u32");
        assert!(refused.contains("4294967296"), "{refused}");
        assert!(fits(&long, &tiles(1), true, 1 << 30).is_ok());
        let fewer = problem([1, 1, 1, (1 << 26) - 1, 64]);
        assert!(fits(&fewer, &tiles(1), false, 1 << 30).is_ok());
        // The partial results count as well.
        assert!(fits(&problem([1, 1, 1 << 25, 1, 64]), &tiles(2), false, 1 << 30).is_err());
        let many = problem([1 << 16, 1 << 16, 1, 1, 1]);
        assert!(fits(&many, &tiles(1), true, u64::from(u32::MAX)).is_err());
        assert!(fits(&problem([4, 5, 1, 1, 1]), &tiles(1), true, 19).is_err());
    }
}
