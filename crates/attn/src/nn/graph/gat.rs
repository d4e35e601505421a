//! Graph attention with scores from a small network (GATv2).

use attn_core::{AttentionError, Mask};
use burn::config::Config;
use burn::module::{Initializer, Module, Param};
use burn::nn::{Dropout, DropoutConfig, Linear};
use burn::tensor::{Bool, Device, FloatDType, Tensor, activation};

use crate::nn::check::{self, positive};
use crate::nn::parts;
use crate::{Attention, Selection, apply_weights};

/// Elements of the network's hidden layer that are computed at once: 64 MiB of f32. Fewer rows at a time cost launches, more
/// cost memory.
const TILE: usize = 1 << 24;

/// Sizes and choices of a [`GraphAttention`]; [`init`](Self::init) makes it.
#[derive(Config, Debug)]
pub struct GraphAttentionConfig {
    /// Features of a node, F.
    pub d_input: usize,
    /// Features of one head, D.
    pub head_dim: usize,
    /// Heads, H.
    pub heads: usize,
    /// Whether heads stand side by side in the output, `H·D`, or are averaged, `D` (as in a network's last layer).
    #[config(default = true)]
    pub concat: bool,
    /// Whether every node is its own neighbour, whatever the adjacency says.
    #[config(default = true)]
    pub self_loops: bool,
    /// Whether a node's projections as the one that attends and as a neighbour are the same, `W_l = W_r`.
    #[config(default = false)]
    pub shared_weights: bool,
    /// Features of an edge; `None`: edges have none.
    pub d_edge: Option<usize>,
    /// Whether a projection of a node's own features is added to the output.
    #[config(default = false)]
    pub residual: bool,
    /// Whether the projections of nodes and the output have biases.
    #[config(default = false)]
    pub bias: bool,
    /// Slope of the network's LeakyReLU below 0.
    #[config(default = 0.2)]
    pub negative_slope: f64,
    /// Probability with which a weight is dropped while training.
    #[config(default = 0.0)]
    pub dropout: f64,
    /// How the parameters begin.
    #[config(default = "Initializer::XavierUniform{gain:1.0}")]
    pub initializer: Initializer,
}

impl GraphAttentionConfig {
    /// Makes the layer on a device.
    ///
    /// # Errors
    /// A value error that names the first size, slope or probability without a meaning.
    pub fn init(&self, device: &Device) -> Result<GraphAttention, AttentionError> {
        let d_input = positive("d_input", self.d_input)?;
        let (head_dim, heads) = (positive("head_dim", self.head_dim)?, positive("heads", self.heads)?);
        let d_edge = self.d_edge.map(|d_edge| positive("d_edge", d_edge)).transpose()?;
        let joined = check::features("head_dim", heads, head_dim)?;
        if !self.negative_slope.is_finite() {
            return Err(AttentionError::value("negative_slope", "a finite number", self.negative_slope));
        }
        let dropout = check::probability("dropout", self.dropout)?;
        let d_output = if self.concat { joined } else { head_dim };
        let linear = |d_input, d_output, bias| parts::new_linear(d_input, d_output, bias, &self.initializer, device);
        Ok(GraphAttention {
            node: linear(d_input, joined, self.bias),
            neighbour: (!self.shared_weights).then(|| linear(d_input, joined, self.bias)),
            edge: d_edge.map(|d_edge| linear(d_edge, joined, false)),
            score: self.initializer.init_with([heads, head_dim], Some(head_dim), Some(1), device),
            residual: self.residual.then(|| linear(d_input, d_output, false)),
            bias: self.bias.then(|| Initializer::Zeros.init([d_output], device)),
            dropout: DropoutConfig::new(dropout).init(),
            concat: self.concat,
            self_loops: self.self_loops,
            negative_slope: self.negative_slope,
        })
    }
}

/// Graph attention (GATv2, Brody et al. 2022; after GAT, Veličković et al. 2018).
///
/// Axes: B graphs, N nodes, F features of a node, H heads of D features.
///
/// ```text
/// e_ij  = a · LeakyReLU(W_l·h_i + W_r·h_j [+ W_e·x_ij])          per head; i attends, j is its neighbour
/// α_ij  = softmax_j(e_ij)   over the neighbours of i
/// out_i = Σ_j α_ij · W_r·h_j   heads side by side or averaged    [+ W_s·h_i] [+ b]
/// ```
///
/// A node without neighbours gets 0 from the sum. The scores are not products of a query and a key, so they are materialised,
/// `H·N²`, and go to the fused kernel as a bias; their network has `H·N²·D` elements, computed for some nodes at a time. On an
/// autodiff device all of these are kept for the backward pass. The adjacency is dense: time in `N²`, however few edges there
/// are.
///
/// ```
/// use attn::nn::{Graph, GraphAttentionConfig};
/// use burn::tensor::{Bool, Device, Distribution, Tensor};
///
/// # fn main() -> Result<(), attn::AttentionError> {
/// let device = Device::default();
/// // Three nodes in a row, each with itself.
/// let links = [[[true, true, false], [true, true, true], [false, true, true]]];
/// let adjacency = Tensor::<3, Bool>::from_data(links, &device);
/// let nodes = Tensor::<3>::random([1, 3, 8], Distribution::Default, &device); // [batch, nodes, features]
/// let layer = GraphAttentionConfig::new(8, 4, 2).init(&device)?;
/// let out = layer.forward(Graph::new(nodes, adjacency))?;
/// assert_eq!(out.dims(), [1, 3, 8]); // two heads of four features
/// # Ok(())
/// # }
/// ```
#[derive(Module, Debug)]
pub struct GraphAttention {
    /// `W_l [F, H·D]`.
    pub node: Linear,
    /// `W_r [F, H·D]`; absent where it is `W_l`.
    pub neighbour: Option<Linear>,
    /// `W_e [d_edge, H·D]`.
    pub edge: Option<Linear>,
    /// `a [H, D]`.
    pub score: Param<Tensor<2>>,
    /// `W_s`.
    pub residual: Option<Linear>,
    /// `b`.
    pub bias: Option<Param<Tensor<1>>>,
    /// Of the weights.
    pub dropout: Dropout,
    concat: bool,
    self_loops: bool,
    negative_slope: f64,
}

/// The tensors of one call of a [`GraphAttention`].
#[derive(Debug, Clone)]
pub struct Graph {
    /// Features of the nodes, `[B, N, F]`.
    pub nodes: Tensor<3>,
    /// Which node attends to which, `[B, N, N]`: true at `[_, i, j]` makes j a neighbour of i.
    pub adjacency: Tensor<3, Bool>,
    /// Features of the edges, `[B, N, N, d_edge]`; read where there is an edge.
    pub edges: Option<Tensor<4>>,
    /// Which nodes are there, `[B, N]`: the others have no edges, whatever the adjacency says.
    pub padding: Option<Mask<Tensor<2, Bool>>>,
}

impl Graph {
    /// Nodes and their neighbours, all of them there, edges without features.
    pub fn new(nodes: Tensor<3>, adjacency: Tensor<3, Bool>) -> Self {
        Self { nodes, adjacency, edges: None, padding: None }
    }
}

/// What a [`GraphAttention`] gives.
#[derive(Debug, Clone)]
pub struct GraphAttentionOutput {
    /// `[B, N, H·D]`, or `[B, N, D]` where heads are averaged.
    pub nodes: Tensor<3>,
    /// `α` before any dropout, `[B, selected heads, selected rows, N]`; there if they were asked for.
    pub weights: Option<Tensor<4>>,
}

impl GraphAttention {
    /// Attends along the edges of a graph.
    ///
    /// # Errors
    /// An [`AttentionError`] that names `nodes`, `adjacency`, `edges`, `padding` or the weights at fault, before any work starts.
    pub fn forward(&self, graph: Graph) -> Result<Tensor<3>, AttentionError> {
        Ok(self.run(graph, None)?.nodes)
    }

    /// As [`forward`](Self::forward), and gives the weights of the selected heads and nodes.
    ///
    /// # Errors
    /// As [`forward`](Self::forward), and names `heads` or `rows` where the selection points past them.
    pub fn forward_with_weights(
        &self,
        graph: Graph,
        selection: Selection,
    ) -> Result<GraphAttentionOutput, AttentionError> {
        self.run(graph, Some(selection))
    }

    fn run(&self, graph: Graph, selection: Option<Selection>) -> Result<GraphAttentionOutput, AttentionError> {
        let [batch, count] = self.check(&graph)?;
        let (nodes, adjacency) = self.edges(&graph, batch, count)?;
        let edges = graph.edges.map(|edges| parts::without_padding(edges, Some(&adjacency)));
        let node = parts::linear(&self.node, nodes.clone());
        let neighbour = match &self.neighbour {
            Some(linear) => parts::linear(linear, nodes.clone()),
            None => node.clone(),
        };
        let [heads, head_dim] = self.score.val().dims();
        let value = parts::heads(neighbour.clone(), heads);
        let scores = self.scores(node, neighbour, edges, TILE);
        let nothing = Tensor::zeros([batch, heads, count, 1], (&nodes.device(), nodes.dtype()));
        let mut attention = Attention::new(nothing.clone(), nothing, value.clone()).bias(scores);
        if batch * count > 0 {
            attention = attention.mask(Mask::keep(adjacency.reshape([batch, 1, count, count])));
        }
        let drops = self.dropout.training.is_enabled() && nodes.device().is_autodiff() && self.dropout.prob > 0.0;
        let (mut out, mut weights) = (None, None);
        if !drops || selection.is_some() {
            let attention = attention.clone();
            let attention = selection.map_or(attention.clone(), |selection| attention.with_weights(selection));
            let output = attention.forward()?;
            (out, weights) = (Some(output.out), output.weights);
        }
        let out = match out.filter(|_| !drops) {
            Some(out) => out,
            None => self.drop(attention, value)?,
        };
        if batch * count == 0 {
            let shape = [batch, count, if self.concat { heads * head_dim } else { head_dim }];
            return Ok(GraphAttentionOutput { nodes: Tensor::zeros(shape, (&nodes.device(), nodes.dtype())), weights });
        }
        let mut out = if self.concat { parts::joined(out) } else { out.mean_dim(1).reshape([batch, count, head_dim]) };
        if let Some(residual) = &self.residual {
            out = out + parts::linear(residual, nodes);
        }
        if let Some(bias) = &self.bias {
            out = out + bias.val().unsqueeze::<3>();
        }
        Ok(GraphAttentionOutput { nodes: out, weights })
    }

    /// Attention with dropout on its weights.
    fn drop(&self, attention: Attention, value: Tensor<4>) -> Result<Tensor<4>, AttentionError> {
        let Some(weights) = attention.with_weights(Selection::all()).forward()?.weights else {
            return Err(AttentionError::value("dropout", "weights to drop from", "none"));
        };
        // Weights come in the type in which sums are kept.
        let (narrow, wide): (FloatDType, FloatDType) = (value.dtype().into(), weights.dtype().into());
        Ok(apply_weights(self.dropout.forward(weights), value.cast(wide))?.cast(narrow))
    }

    /// The nodes without what stands at padding, and the adjacency with loops and without padding.
    fn edges(&self, graph: &Graph, batch: usize, count: usize) -> Result<(Tensor<3>, Tensor<3, Bool>), AttentionError> {
        let shape = [batch, count, count];
        let mut adjacency = graph.adjacency.clone();
        if batch * count == 0 {
            return Ok((graph.nodes.clone(), adjacency));
        }
        if self.self_loops {
            let device = adjacency.device();
            let loops = Tensor::<2, Bool>::diag_mask([count, count], 0, &device).bool_not();
            adjacency = adjacency.bool_or(loops.unsqueeze::<3>().expand::<3, _>(shape));
        }
        let Some(padding) = graph.padding.clone() else { return Ok((graph.nodes.clone(), adjacency)) };
        let keep = parts::check_mask("padding", padding, [batch, count], &graph.nodes.device())?;
        let of_rows = keep.clone().reshape([batch, count, 1]).expand::<3, _>(shape);
        let of_columns = keep.clone().reshape([batch, 1, count]).expand::<3, _>(shape);
        adjacency = adjacency.bool_and(of_rows).bool_and(of_columns);
        Ok((parts::without_padding(graph.nodes.clone(), Some(&keep)), adjacency))
    }

    /// `e`, `[B, H, N, N]`, from both projections of the nodes; `tile` elements of the hidden layer at once, or one row.
    pub(in crate::nn) fn scores(
        &self,
        node: Tensor<3>,
        neighbour: Tensor<3>,
        edges: Option<Tensor<4>>,
        tile: usize,
    ) -> Tensor<4> {
        let score = self.score.val();
        let [heads, dim] = score.dims();
        let [batch, count, _] = node.dims();
        if batch * count == 0 {
            return Tensor::zeros([batch, heads, count, count], (&node.device(), node.dtype()));
        }
        let score = score.reshape([1, 1, 1, heads, dim]);
        let neighbour = neighbour.reshape([batch, 1, count, heads, dim]);
        let rows = (tile / (batch * count * heads * dim)).clamp(1, count);
        let tile = |start: usize| {
            let rows = rows.min(count - start);
            let node = node.clone().narrow(1, start, rows).reshape([batch, rows, 1, heads, dim]);
            let mut hidden = node + neighbour.clone();
            if let (Some(linear), Some(edges)) = (&self.edge, &edges) {
                let edges = parts::linear(linear, edges.clone().narrow(1, start, rows));
                hidden = hidden + edges.reshape([batch, rows, count, heads, dim]);
            }
            let products = activation::leaky_relu(hidden, self.negative_slope) * score.clone();
            products.sum_dim(4).reshape([batch, rows, count, heads])
        };
        let mut tiles: Vec<_> = (0..count).step_by(rows).map(tile).collect();
        let scores = if tiles.len() == 1 { tiles.remove(0) } else { Tensor::cat(tiles, 1) };
        scores.permute([0, 3, 1, 2])
    }

    /// Everything that comes in against the weights, and these against each other; gives B and N.
    fn check(&self, graph: &Graph) -> Result<[usize; 2], AttentionError> {
        let [heads, dim] = self.score.val().dims();
        let joined = heads * dim;
        let weight = self.node.weight.val();
        let [d_input, _] = check::linear("node.weight", &self.node, None, Some(joined))?;
        if let Some(neighbour) = &self.neighbour {
            check::linear("neighbour.weight", neighbour, Some(d_input), Some(joined))?;
        }
        let d_output = if self.concat { joined } else { dim };
        if let Some(residual) = &self.residual {
            check::linear("residual.weight", residual, Some(d_input), Some(d_output))?;
        }
        if let Some(bias) = &self.bias {
            parts::check_shape("bias", &bias.val().dims(), &[d_output])?;
        }
        let [batch, count, _] = parts::check_input("nodes", &graph.nodes, "batch, nodes", d_input, &weight)?;
        parts::check_shape("adjacency", &graph.adjacency.dims(), &[batch, count, count])?;
        let devices = [("adjacency", Some(graph.adjacency.device()))];
        crate::attention::check_devices(&weight.device(), &devices)?;
        if let Some(padding) = graph.padding.clone() {
            parts::check_mask("padding", padding, [batch, count], &weight.device())?;
        }
        match (&self.edge, &graph.edges) {
            (Some(linear), Some(edges)) => {
                let [d_edge, _] = check::linear("edge.weight", linear, None, Some(joined))?;
                parts::check_like("edges", edges, &weight)?;
                parts::check_shape("edges", &edges.dims(), &[batch, count, count, d_edge])?;
            }
            (None, None) => {}
            (Some(_), None) => return Err(AttentionError::value("edges", "features of edges", "none")),
            (None, Some(edges)) => {
                let expected = "none, for the layer has no d_edge";
                return Err(AttentionError::value("edges", expected, format!("{:?}", edges.dims())));
            }
        }
        Ok([batch, count])
    }
}
