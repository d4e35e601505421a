//! Graphormer: a transformer over the nodes of a graph that knows the graph by a bias and by the nodes' degrees.

use attn_core::AttentionError;
use burn::config::Config;
use burn::module::{Initializer, Module, Param};
use burn::tensor::{Bool, Device, FloatDType, IndexingUpdateOp, Int, Tensor};

use super::paths::ShortestPaths;
use crate::attention::check_devices;
use crate::nn::check::positive;
use crate::nn::parts;

/// Sizes of a [`GraphormerBias`]; [`init`](Self::init) makes it.
#[derive(Config, Debug)]
pub struct GraphormerBiasConfig {
    /// Heads of the attention that takes the bias.
    pub heads: usize,
    /// The greatest distance with a bias of its own; farther nodes share it.
    pub max_distance: usize,
    /// Features of an edge; `None`: edges have none, and give no bias.
    pub d_edge: Option<usize>,
    /// Edges of a path that count, from its beginning.
    #[config(default = 5)]
    pub max_hops: usize,
    /// How the biases begin.
    #[config(default = "Initializer::Normal{mean:0.0, std:0.02}")]
    pub initializer: Initializer,
}

impl GraphormerBiasConfig {
    /// Makes the bias on a device.
    ///
    /// # Errors
    /// A value error that names the first size that is 0.
    pub fn init(&self, device: &Device) -> Result<GraphormerBias, AttentionError> {
        let heads = positive("heads", self.heads)?;
        let buckets = positive("max_distance", self.max_distance)?.saturating_add(2);
        let hops = positive("max_hops", self.max_hops)?;
        let d_edge = self.d_edge.map(|d_edge| positive("d_edge", d_edge)).transpose()?;
        Ok(GraphormerBias {
            spatial: self.initializer.init([buckets, heads], device),
            edge: d_edge.map(|d_edge| self.initializer.init([hops, d_edge, heads], device)),
        })
    }
}

/// Spatial and edge encoding of Graphormer (Ying et al. 2021), a bias for any attention over nodes.
///
/// ```text
/// bias_h(i, j) = b_h[bucket(i, j)]  +  1/n · Σ_{m ≤ n} x_{e_m} · w_{m,h}
/// bucket       = min(distance, max_distance), and one more for nodes without a path between them
/// e_1 … e_n    = the edges of the shortest path from i to j, max_hops at most; none if i = j
/// ```
///
/// ```
/// use attn::nn::{AttentionOptions, GraphormerBiasConfig, MultiHeadAttentionConfig, shortest_paths};
/// use burn::tensor::{Bool, Device, Distribution, Tensor};
///
/// # fn main() -> Result<(), attn::AttentionError> {
/// let device = Device::default();
/// // Three nodes in a row.
/// let links = [[[false, true, false], [true, false, true], [false, true, false]]];
/// let paths = shortest_paths(Tensor::<3, Bool>::from_data(links, &device), 1)?;
/// let bias = GraphormerBiasConfig::new(2, 4).init(&device)?.forward(&paths, None)?;
/// let nodes = Tensor::<3>::random([1, 3, 8], Distribution::Default, &device);
/// let layer = MultiHeadAttentionConfig::new(8, 2).init(&device)?;
/// let output = layer.self_attention(nodes, &AttentionOptions::new().bias(bias))?;
/// assert_eq!(output.out.dims(), [1, 3, 8]);
/// # Ok(())
/// # }
/// ```
///
/// Gives `[B, H, N, N]` for [`AttentionOptions::bias`](crate::nn::AttentionOptions::bias), so that the attention itself runs on
/// the fused kernel. The formula asks for a number for every pair of nodes: time and memory in `H·N²`, and in `max_hops` times
/// that on an autodiff device where edges have features.
#[derive(Module, Debug)]
pub struct GraphormerBias {
    /// `b [max_distance + 2, H]`; the last row is for nodes without a path.
    pub spatial: Param<Tensor<2>>,
    /// `w [max_hops, d_edge, H]`.
    pub edge: Option<Param<Tensor<3>>>,
}

impl GraphormerBias {
    /// The bias of graphs with these paths; `edges` `[B, N, N, d_edge]` are the features of the edges, read where a path runs.
    ///
    /// # Errors
    /// An [`AttentionError`] that names `paths` (fewer hops than `max_hops`, too), `edges` or the weights at fault.
    pub fn forward(&self, paths: &ShortestPaths, edges: Option<Tensor<4>>) -> Result<Tensor<4>, AttentionError> {
        let spatial = self.spatial.val();
        let [buckets, heads] = spatial.dims();
        let dims @ [batch, count, _] = self.check(paths, edges.as_ref())?;
        if batch * count == 0 {
            return Ok(Tensor::zeros([batch, heads, count, count], (&spatial.device(), spatial.dtype())));
        }
        let distances = paths.distances.clone().reshape([batch * count * count]);
        let none = distances.clone().lower_elem(0);
        let farthest = buckets.saturating_sub(2) as i64;
        let index = distances.clamp(0, farthest).mask_fill(none, buckets as i64 - 1);
        let mut bias = spatial.select(0, index).reshape([batch, count, count, heads]);
        if let (Some(edge), Some(edges)) = (&self.edge, edges) {
            bias = bias + edge_bias(edge.val(), paths.edges.clone(), edges, dims);
        }
        Ok(bias.permute([0, 3, 1, 2]))
    }

    fn check(&self, paths: &ShortestPaths, edges: Option<&Tensor<4>>) -> Result<[usize; 3], AttentionError> {
        let spatial = self.spatial.val();
        let [buckets, heads] = spatial.dims();
        if buckets < 3 {
            let expected = format!("[max_distance + 2 of at least 3, {heads}] (the layer's weight)");
            return Err(AttentionError::shape("spatial", expected, &[buckets, heads]));
        }
        let dims @ [batch, count, columns] = paths.distances.dims();
        if count != columns {
            return Err(AttentionError::shape("paths", format!("[{batch}, {count}, {count}] (distances)"), &dims));
        }
        check_devices(
            &spatial.device(),
            &[("paths", Some(paths.distances.device())), ("paths", Some(paths.edges.device()))],
        )?;
        match (&self.edge, edges) {
            (Some(edge), Some(edges)) => {
                let [hops, d_edge, found] = edge.val().dims();
                parts::check_shape("edge", &[found], &[heads])?;
                parts::check_like("edges", edges, &spatial)?;
                parts::check_shape("edges", &edges.dims(), &[batch, count, count, d_edge])?;
                let found @ [b, n, m, there] = paths.edges.dims();
                if [b, n, m] != dims || there < hops {
                    let expected = format!("[{batch}, {count}, {count}, at least {hops}] (edges)");
                    return Err(AttentionError::shape("paths", expected, &found));
                }
            }
            (None, None) => {}
            (Some(_), None) => return Err(AttentionError::value("edges", "features of edges", "none")),
            (None, Some(edges)) => {
                let expected = "none, for the layer has no d_edge";
                return Err(AttentionError::value("edges", expected, format!("{:?}", edges.dims())));
            }
        }
        Ok(dims)
    }
}

/// The mean of `x·w` along the paths, `[B, N, N, H]`: each edge is weighed for each hop, then hops gather what they pass.
fn edge_bias(weight: Tensor<3>, passed: Tensor<4, Int>, edges: Tensor<4>, [batch, count, _]: [usize; 3]) -> Tensor<4> {
    let [hops, d_edge, heads] = weight.dims();
    let pairs = count * count;
    let (device, dtype) = (edges.device(), edges.dtype());
    let passed = passed.narrow(3, 0, hops);
    let on_path = passed.clone().greater_equal_elem(0);
    let used = used_edges(passed.clone(), [batch, pairs], &device);
    let edges = parts::without_padding(edges.reshape([batch, pairs, d_edge]), Some(&used));
    let edges = edges.reshape([batch * pairs, d_edge]);
    let mut sum: Option<Tensor<3>> = None;
    for hop in 0..hops {
        let weight = weight.clone().narrow(0, hop, 1).reshape([d_edge, heads]);
        let weighed = edges.clone().matmul(weight).reshape([batch, pairs, heads]);
        let shape = [batch, pairs, heads];
        let index = passed.clone().narrow(3, hop, 1).reshape([batch, pairs, 1]).clamp(0, pairs as i64 - 1);
        let past = on_path.clone().narrow(3, hop, 1).bool_not().reshape([batch, pairs, 1]);
        let found = weighed.gather(1, index.expand::<3, _>(shape)).mask_fill(past.expand::<3, _>(shape), 0.0);
        sum = Some(sum.map_or(found.clone(), |sum| sum + found));
    }
    let length = on_path.int().sum_dim(3).clamp_min(1).float().cast(FloatDType::from(dtype));
    let sum = sum.unwrap_or_else(|| Tensor::zeros([batch, pairs, heads], (&device, dtype)));
    sum.reshape([batch, count, count, heads]) / length
}

/// Which edges lie on any path, `[B, N²]`.
fn used_edges(passed: Tensor<4, Int>, [batch, pairs]: [usize; 2], device: &Device) -> Tensor<2, Bool> {
    let [_, _, _, hops] = passed.dims();
    let passed = passed.reshape([batch, pairs * hops]);
    // Past the end of a path nothing is counted.
    let one = passed.clone().greater_equal_elem(0).int();
    let counts = Tensor::<2, Int>::zeros([batch, pairs], device);
    counts.scatter(1, passed.clamp(0, pairs as i64 - 1), one, IndexingUpdateOp::Add).greater_elem(0)
}

/// Sizes of a [`CentralityEncoding`]; [`init`](Self::init) makes it.
#[derive(Config, Debug)]
pub struct CentralityEncodingConfig {
    /// Features of a node.
    pub d_model: usize,
    /// The greatest degree with an encoding of its own; nodes of more neighbours share it.
    pub max_degree: usize,
    /// Whether edges have a direction, so that degrees in and out differ and have an encoding each.
    #[config(default = false)]
    pub directed: bool,
    /// How the encodings begin.
    #[config(default = "Initializer::Normal{mean:0.0, std:0.02}")]
    pub initializer: Initializer,
}

impl CentralityEncodingConfig {
    /// Makes the encoding on a device.
    ///
    /// # Errors
    /// A value error that names the first size that is 0.
    pub fn init(&self, device: &Device) -> Result<CentralityEncoding, AttentionError> {
        let d_model = positive("d_model", self.d_model)?;
        let rows = positive("max_degree", self.max_degree)?.saturating_add(1);
        Ok(CentralityEncoding {
            outward: self.initializer.init([rows, d_model], device),
            inward: self.directed.then(|| self.initializer.init([rows, d_model], device)),
        })
    }
}

/// Centrality encoding of Graphormer (Ying et al. 2021): what a node's number of neighbours adds to its features.
///
/// ```text
/// out_i = h_i + z_out[min(number of edges from i, max_degree)] [+ z_in[min(number of edges to i, max_degree)]]
/// ```
#[derive(Module, Debug)]
pub struct CentralityEncoding {
    /// `z_out [max_degree + 1, d_model]`.
    pub outward: Param<Tensor<2>>,
    /// `z_in [max_degree + 1, d_model]`, where edges have a direction.
    pub inward: Option<Param<Tensor<2>>>,
}

impl CentralityEncoding {
    /// Adds the encoding to `nodes` `[B, N, d_model]` of graphs with this `adjacency` `[B, N, N]`.
    ///
    /// # Errors
    /// An [`AttentionError`] that names `nodes`, `adjacency` or the weights at fault.
    pub fn forward(&self, nodes: Tensor<3>, adjacency: Tensor<3, Bool>) -> Result<Tensor<3>, AttentionError> {
        let outward = self.outward.val();
        let [rows, d_model] = outward.dims();
        let [batch, count, _] = parts::check_input("nodes", &nodes, "batch, nodes", d_model, &outward)?;
        parts::check_shape("adjacency", &adjacency.dims(), &[batch, count, count])?;
        check_devices(&outward.device(), &[("adjacency", Some(adjacency.device()))])?;
        if let Some(inward) = &self.inward {
            parts::check_shape("inward", &inward.val().dims(), &[rows, d_model])?;
        }
        if batch * count == 0 || rows == 0 {
            return Ok(nodes);
        }
        let linked = adjacency.int();
        let of = |table: Tensor<2>, axis: usize| {
            let degree = linked.clone().sum_dim(axis).clamp_max(rows as i64 - 1).reshape([batch * count]);
            table.select(0, degree).reshape([batch, count, d_model])
        };
        let nodes = nodes + of(outward, 2);
        Ok(match &self.inward {
            Some(inward) => nodes + of(inward.val(), 1),
            None => nodes,
        })
    }
}
