//! Tests of attention over graphs.

use attn_core::Mask;
use burn::module::Module;
use burn::tensor::{Bool, Device, Tensor};

use super::{
    Input, assert_agreement, assert_close, assert_gradients, bools, elements, gradients, noise, reference_device,
    restored, shaken,
};
use crate::Selection;
use crate::nn::{Graph, GraphAttention, GraphAttentionConfig};

pub(super) const NODES: usize = 5;

/// Directed edges of two graphs; node 4 of the first has no neighbours, node 3 none but itself.
pub(super) fn linked(pair: usize) -> bool {
    let (graph, i, j) = (pair / 25, pair / 5 % 5, pair % 5);
    match graph {
        0 => [(0, 1), (1, 2), (2, 0), (2, 3), (3, 3), (0, 4)].contains(&(i, j)),
        _ => (i + 2 * j) % 3 == 1,
    }
}

pub(super) fn adjacency(device: &Device) -> Tensor<3, Bool> {
    bools([2, NODES, NODES], linked, device)
}

fn graph(config: &GraphAttentionConfig, device: &Device) -> Graph {
    let mut graph = Graph::new(noise([2, NODES, config.d_input], 1, device), adjacency(device));
    graph.edges = config.d_edge.map(|d_edge| noise([2, NODES, NODES, d_edge], 2, device));
    graph
}

fn configs() -> [GraphAttentionConfig; 4] {
    let config = GraphAttentionConfig::new(4, 3, 2);
    [
        config.clone().with_self_loops(false),
        config.clone().with_d_edge(Some(2)).with_residual(true),
        config.clone().with_concat(false).with_shared_weights(true).with_residual(true).with_bias(true),
        config.with_self_loops(false).with_concat(false).with_d_edge(Some(2)).with_bias(true),
    ]
}

/// `input·W + b` of one row, in f64.
fn row(linear: &burn::nn::Linear, input: &[f64]) -> Vec<f64> {
    let [_, columns] = linear.weight.val().dims();
    let weight = elements(linear.weight.val());
    let bias = linear.bias.as_ref().map_or(vec![0.0; columns], |bias| elements(bias.val()));
    let of = |column: usize| {
        input.iter().enumerate().map(|(at, x)| x * weight[at * columns + column]).sum::<f64>() + bias[column]
    };
    (0..columns).map(of).collect()
}

/// The layer, node by node, in f64: outputs and weights.
fn by_hand(layer: &GraphAttention, config: &GraphAttentionConfig, graph: &Graph) -> (Vec<f64>, Vec<f64>) {
    let [batch, count, features] = graph.nodes.dims();
    let (heads, dim) = (config.heads, config.head_dim);
    let nodes = elements(graph.nodes.clone());
    let edges = graph.edges.clone().map(elements);
    let score = elements(layer.score.val());
    let (mut outs, mut all) = (vec![], vec![0.0; batch * heads * count * count]);
    for b in 0..batch {
        let node = |i: usize| &nodes[(b * count + i) * features..][..features];
        let neighbour = layer.neighbour.as_ref().unwrap_or(&layer.node);
        for i in 0..count {
            let of_i = row(&layer.node, node(i));
            let mut heard = vec![0.0; heads * dim];
            for head in 0..heads {
                let mass = |j: usize| {
                    let seen = linked((b * count + i) * count + j) || config.self_loops && i == j;
                    let of_j = row(neighbour, node(j));
                    let of_edge = match (&layer.edge, &edges) {
                        (Some(linear), Some(edges)) => {
                            let width = config.d_edge.unwrap();
                            row(linear, &edges[((b * count + i) * count + j) * width..][..width])
                        }
                        _ => vec![0.0; heads * dim],
                    };
                    let e = (head * dim..(head + 1) * dim).map(|d| {
                        let x = of_i[d] + of_j[d] + of_edge[d];
                        score[d] * if x > 0.0 { x } else { config.negative_slope * x }
                    });
                    if seen { e.sum::<f64>().exp() } else { 0.0 }
                };
                let masses: Vec<f64> = (0..count).map(mass).collect();
                let sum: f64 = masses.iter().sum();
                for (j, mass) in masses.into_iter().enumerate().filter(|_| sum > 0.0) {
                    all[((b * heads + head) * count + i) * count + j] = mass / sum;
                    let of_j = row(neighbour, node(j));
                    (head * dim..(head + 1) * dim).for_each(|d| heard[d] += mass / sum * of_j[d]);
                }
            }
            let mut out = if config.concat {
                heard
            } else {
                (0..dim).map(|d| (0..heads).map(|head| heard[head * dim + d]).sum::<f64>() / heads as f64).collect()
            };
            let residual = layer.residual.as_ref().map(|linear| row(linear, node(i)));
            let bias = layer.bias.as_ref().map(|bias| elements(bias.val()));
            for part in [residual, bias].into_iter().flatten() {
                out.iter_mut().zip(part).for_each(|(out, part)| *out += part);
            }
            outs.extend(out);
        }
    }
    (outs, all)
}

#[track_caller]
pub(super) fn assert_elements<const N: usize>(found: Tensor<N>, expected: &[f64], tolerance: f64) {
    let found = elements(found);
    assert_eq!(found.len(), expected.len());
    for (at, (found, expected)) in found.into_iter().zip(expected).enumerate() {
        assert!((found - expected).abs() <= tolerance, "element {at}: {found} in place of {expected}");
    }
}

#[test]
fn gatv2_is_its_formula() {
    let device = reference_device();
    for config in configs() {
        let layer = shaken(config.init(&device).unwrap());
        let graph = graph(&config, &device);
        let (nodes, weights) = by_hand(&layer, &config, &graph);
        assert_elements(layer.forward(graph.clone()).unwrap(), &nodes, 1e-5);
        let output = layer.forward_with_weights(graph, Selection::all()).unwrap();
        assert_elements(output.nodes, &nodes, 1e-5);
        assert_elements(output.weights.unwrap(), &weights, 1e-5);
    }
}

#[test]
fn a_node_without_neighbours_gets_nothing_and_keeps_its_residual() {
    let device = reference_device();
    let config = GraphAttentionConfig::new(4, 3, 2).with_self_loops(false);
    let graph = graph(&config, &device);
    let lonely = |out: Tensor<3>| out.narrow(0, 0, 1).narrow(1, 4, 1);
    let layer = shaken(config.init(&device).unwrap());
    assert_close(lonely(layer.forward(graph.clone()).unwrap()), Tensor::zeros([1, 1, 6], &device), 0.0);
    let layer = shaken(config.with_residual(true).init(&device).unwrap());
    let own = layer.residual.clone().unwrap().forward(lonely(graph.nodes.clone()));
    assert_close(lonely(layer.forward(graph).unwrap()), own, 1e-6);
}

#[test]
fn padding_and_what_no_edge_reaches_have_no_influence() {
    let device = reference_device().autodiff();
    for config in configs() {
        let layer = shaken(config.init(&device).unwrap());
        let small = graph(&config, &device);
        let wanted = layer.forward(small.clone()).unwrap();
        // Two nodes more, full of NaN, whose adjacency says that they see and are seen.
        let nan = Tensor::full([2, 2, 4], f32::NAN, &device);
        let inside = |pair: usize| pair / 7 % 7 < 5 && pair % 7 < 5;
        let old = |pair: usize| pair / 49 * 25 + pair / 7 % 7 * 5 + pair % 7;
        let padded = Graph {
            nodes: Tensor::cat(vec![small.nodes.clone(), nan], 1),
            adjacency: bools([2, 7, 7], |pair| !inside(pair) || linked(old(pair)), &device),
            edges: small.edges.map(|edges| {
                let [_, _, _, width] = edges.dims();
                let right = Tensor::full([2, 5, 2, width], f32::NAN, &device);
                let below = Tensor::full([2, 2, 7, width], f32::NAN, &device);
                let edges = Tensor::cat(vec![Tensor::cat(vec![edges, right], 2), below], 1);
                // Features of edges that are not there are not read, either.
                let loops = config.self_loops;
                let read = move |pair: usize| inside(pair) && (linked(old(pair)) || loops && pair / 7 % 7 == pair % 7);
                let unread = bools([2, 7, 7, width], |i| !read(i / width), &device);
                edges.mask_fill(unread, f32::NAN)
            }),
            padding: Some(Mask::keep(bools([2, 7], |i| i % 7 < 5, &device))),
        };
        let found = layer.forward(padded).unwrap().narrow(1, 0, 5);
        assert_close(found.clone().inner(), wanted.inner(), 1e-5);
        for (path, grad) in gradients(&layer, &found.sum().backward()) {
            assert!(grad.is_none_or(f32::is_finite), "{path}: {grad:?}");
        }
    }
}

#[test]
fn gatv2_gradients_are_central_differences() {
    let device = reference_device();
    for config in configs() {
        let layer = shaken(config.init(&device).unwrap());
        let nodes = Input::new(noise([2, NODES, 4], 1, &device));
        let edges = Input::new(noise([2, NODES, NODES, 2], 2, &device));
        let linked = adjacency(&device);
        assert_gradients((layer, nodes, edges), |(layer, nodes, edges)| {
            let mut graph = Graph::new(nodes.value(), linked.clone());
            graph.edges = config.d_edge.map(|_| edges.value());
            let out = layer.forward(graph).unwrap();
            (out.clone() * out).sum()
        });
    }
}

#[test]
fn gatv2_is_the_same_on_every_backend_and_out_of_a_record() {
    for config in configs() {
        assert_agreement(1e-5, |device| shaken(config.init(device).unwrap()).forward(graph(&config, device)).unwrap());
        let device = reference_device();
        let first = shaken(config.init(&device).unwrap());
        let second = restored(&first, config.init(&device).unwrap());
        let [a, b] = [first, second].map(|layer| layer.forward(graph(&config, &device)).unwrap());
        assert_close(b, a, 0.0);
    }
}

#[test]
fn dropout_drops_weights_in_training_alone() {
    let device = reference_device().autodiff();
    let config = GraphAttentionConfig::new(4, 3, 2).with_dropout(0.5);
    let layer = shaken(config.init(&device).unwrap());
    let graph = graph(&config, &device);
    let trained = layer.forward_with_weights(graph.clone(), Selection::all()).unwrap();
    let resting = layer.clone().freeze().forward_with_weights(graph, Selection::all()).unwrap();
    let moved = (trained.nodes.clone() - resting.nodes).abs().max().into_scalar::<f32>();
    assert!(moved > 1e-2, "half of the weights dropped, and the output moved by {moved}");
    assert_close(trained.weights.unwrap().inner(), resting.weights.unwrap().inner(), 1e-6);
    assert!(gradients(&layer, &trained.nodes.sum().backward()).iter().all(|(_, grad)| grad.is_some()));
}

#[test]
fn scores_are_the_same_in_tiles_of_any_size() {
    let device = reference_device();
    let config = GraphAttentionConfig::new(4, 3, 2).with_d_edge(Some(2));
    let layer = shaken(config.init(&device).unwrap());
    let (node, neighbour) = (noise([2, NODES, 6], 1, &device), noise([2, NODES, 6], 2, &device));
    let edges = graph(&config, &device).edges;
    let of = |tile| layer.scores(node.clone(), neighbour.clone(), edges.clone(), tile);
    // A row has 2 · 5 · 6 hidden features: tiles of one row, of two with one left over, of all.
    for tile in [1, 60, 120] {
        assert_close(of(tile), of(1 << 20), 1e-6);
    }
}

#[test]
fn gatv2_names_what_is_wrong() {
    let device = reference_device();
    let config = GraphAttentionConfig::new(4, 3, 2).with_d_edge(Some(2));
    let layer = shaken(config.init(&device).unwrap());
    let good = || graph(&config, &device);
    let name = |graph: Graph| layer.forward(graph).map(|_| ()).unwrap_err().argument();
    assert_eq!(name(Graph { nodes: noise([2, 5, 3], 1, &device), ..good() }), Some("nodes"));
    assert_eq!(name(Graph { adjacency: bools([2, 5, 4], linked, &device), ..good() }), Some("adjacency"));
    assert_eq!(name(Graph { edges: None, ..good() }), Some("edges"));
    assert_eq!(name(Graph { edges: Some(noise([2, 5, 5, 3], 1, &device)), ..good() }), Some("edges"));
    let padding = Some(Mask::keep(bools([2, 4], |_| true, &device)));
    assert_eq!(name(Graph { padding, ..good() }), Some("padding"));
    let bare = GraphAttentionConfig::new(4, 3, 2).init(&device).unwrap();
    assert_eq!(bare.forward(good()).map(|_| ()).unwrap_err().argument(), Some("edges"));
    let selection = Selection { heads: None, rows: Some(vec![5]) };
    let error = layer.forward_with_weights(good(), selection).map(|_| ()).unwrap_err();
    assert_eq!(error.argument(), Some("rows"));
    for mean in [false, true] {
        let layer = GraphAttentionConfig::new(4, 3, 2).with_concat(!mean).init(&device).unwrap();
        for [batch, count] in [[0, 5], [2, 0]] {
            let nodes = Tensor::zeros([batch, count, 4], &device);
            let empty = Graph::new(nodes, bools([batch, count, count], |_| true, &device));
            assert_eq!(layer.forward(empty).unwrap().dims(), [batch, count, if mean { 3 } else { 6 }]);
        }
    }
    let sizes = |d_input, head_dim, heads| GraphAttentionConfig::new(d_input, head_dim, heads);
    for (argument, config) in [
        ("d_input", sizes(0, 3, 2)),
        ("head_dim", sizes(4, 0, 2)),
        ("heads", sizes(4, 3, 0)),
        ("d_edge", sizes(4, 3, 2).with_d_edge(Some(0))),
        ("negative_slope", sizes(4, 3, 2).with_negative_slope(f64::NAN)),
        ("dropout", sizes(4, 3, 2).with_dropout(1.0)),
    ] {
        assert_eq!(config.init(&device).map(|_| ()).unwrap_err().argument(), Some(argument), "{config}");
    }
}
