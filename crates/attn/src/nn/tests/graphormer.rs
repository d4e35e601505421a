//! Tests of Graphormer's encodings and of shortest paths.

use burn::tensor::{Device, Int, Tensor};

use super::graph::{NODES, adjacency, assert_elements, linked};
use super::{
    Input, assert_agreement, assert_close, assert_gradients, bools, elements, gradients, noise, plain,
    reference_device, restored, shaken,
};
use crate::Attention;
use crate::nn::{
    AttentionOptions, CentralityEncodingConfig, GraphormerBiasConfig, MultiHeadAttentionConfig, shortest_paths,
};

/// Distances by Floyd and Warshall, −1 where there is no path.
fn distances(count: usize, linked: impl Fn(usize, usize) -> bool) -> Vec<i64> {
    let far = i64::MAX / 4;
    let start = |pair: usize| match (pair / count, pair % count) {
        (i, j) if i == j => 0,
        (i, j) if linked(i, j) => 1,
        _ => far,
    };
    let mut found: Vec<i64> = (0..count * count).map(start).collect();
    for via in 0..count {
        for pair in 0..count * count {
            let around = found[pair / count * count + via] + found[via * count + pair % count];
            found[pair] = found[pair].min(around);
        }
    }
    found.into_iter().map(|length| if length >= far { -1 } else { length }).collect()
}

fn ints<const N: usize>(tensor: Tensor<N, Int>) -> Vec<i64> {
    tensor.into_data().convert::<i64>().try_to_vec::<i64>().unwrap()
}

#[test]
fn shortest_paths_are_short_and_lead_there() {
    let device = reference_device();
    let hops = 3;
    let paths = shortest_paths(adjacency(&device), hops).unwrap();
    let (found, edges) = (ints(paths.distances), ints(paths.edges));
    for graph in 0..2 {
        let of_graph = |i: usize, j: usize| linked((graph * 5 + i) * 5 + j);
        for (pair, length) in distances(5, of_graph).into_iter().enumerate() {
            let at = graph * 25 + pair;
            assert_eq!(found[at], length, "graph {graph}, pair {pair}");
            let path = &edges[at * hops..(at + 1) * hops];
            let used = length.clamp(0, hops as i64) as usize;
            assert!(path[used..].iter().all(|&edge| edge == -1), "{path:?}");
            // The edges follow one another from i, and end at j where all of them are told.
            let mut node = pair / 5;
            for &edge in &path[..used] {
                let (from, to) = (edge as usize / 5, edge as usize % 5);
                assert!(from == node && of_graph(from, to), "{path:?}");
                node = to;
            }
            assert!(length as usize > hops || length <= 0 || node == pair % 5, "{path:?}");
        }
    }
    for shape in [[0, 3, 3], [2, 0, 0]] {
        assert_eq!(shortest_paths(bools(shape, |_| true, &device), 2).unwrap().distances.dims(), shape);
    }
    assert_eq!(shortest_paths(adjacency(&device), 0).unwrap().edges.dims(), [2, 5, 5, 0]);
    let error = shortest_paths(bools([1, 2, 3], |_| true, &device), 1).map(|_| ()).unwrap_err();
    assert_eq!(error.argument(), Some("adjacency"));
}

fn biases() -> [GraphormerBiasConfig; 2] {
    let config = GraphormerBiasConfig::new(2, 2).with_max_hops(2);
    [config.clone(), config.with_d_edge(Some(3))]
}

fn edge_features(config: &GraphormerBiasConfig, device: &Device) -> Option<Tensor<4>> {
    config.d_edge.map(|d_edge| noise([2, NODES, NODES, d_edge], 3, device))
}

#[test]
fn graphormers_bias_is_its_formula_and_runs_on_the_kernel() {
    let device = reference_device();
    for config in biases() {
        let module = shaken(config.init(&device).unwrap());
        // More hops than the layer weighs: the rest does not count.
        let paths = shortest_paths(adjacency(&device), 4).unwrap();
        let (lengths, edges) = (ints(paths.distances.clone()), ints(paths.edges.clone()));
        let (spatial, weights) = (elements(module.spatial.val()), module.edge.clone().map(|edge| elements(edge.val())));
        let features = edge_features(&config, &device);
        let x = features.clone().map(elements);
        let mut wanted = vec![0.0; 2 * 2 * 25];
        for (graph, head, pair) in (0..100).map(|at| (at / 50, at / 25 % 2, at % 25)) {
            let at = graph * 25 + pair;
            let bucket = if lengths[at] < 0 { 3 } else { lengths[at].min(2) as usize };
            let mut bias = spatial[bucket * 2 + head];
            if let (Some(w), Some(x)) = (&weights, &x) {
                let used: Vec<i64> = edges[at * 4..at * 4 + 2].iter().copied().filter(|&edge| edge >= 0).collect();
                for (hop, &edge) in used.iter().enumerate() {
                    let feature = |f: usize| x[(graph * 25 + edge as usize) * 3 + f] * w[(hop * 3 + f) * 2 + head];
                    bias += (0..3).map(feature).sum::<f64>() / used.len() as f64;
                }
            }
            wanted[(graph * 2 + head) * 25 + pair] = bias;
        }
        let bias = module.forward(&paths, features).unwrap();
        assert_elements(bias.clone(), &wanted, 1e-5);

        // The attention of a layer with that bias is softmax of scores plus bias.
        let layer = shaken(MultiHeadAttentionConfig::new(4, 2).init(&device).unwrap());
        let nodes = noise([2, NODES, 4], 1, &device);
        let options = AttentionOptions::new().bias(bias.clone());
        let found = layer.self_attention(nodes.clone(), &options).unwrap().out;
        let [q, k, v] = [&layer.query, &layer.key, layer.value.as_ref().unwrap()]
            .map(|linear| super::heads(linear.forward(nodes.clone()), 2));
        let weights = burn::tensor::activation::softmax(
            q.clone().matmul(k.clone().swap_dims(2, 3)).div_scalar(2_f64.sqrt()) + bias.clone(),
            3,
        );
        assert_close(found, layer.output.forward(super::joined(weights.matmul(v.clone()))), 1e-5);
        // Without the bias it would be something else.
        let unbiased = plain(q.clone(), k.clone(), v.clone(), None);
        let biased = Attention::new(q, k, v).bias(bias).forward().unwrap().out;
        assert!((biased - unbiased).abs().max().into_scalar::<f32>() > 1e-2);
    }
}

#[test]
fn features_of_edges_on_no_path_are_not_read() {
    let device = reference_device().autodiff();
    let [_, config] = biases();
    let module = shaken(config.init(&device).unwrap());
    let paths = shortest_paths(adjacency(&device), 2).unwrap();
    let features = edge_features(&config, &device).unwrap();
    let wanted = module.forward(&paths, Some(features.clone())).unwrap();
    let unread = bools([2, NODES, NODES, 3], |i| !linked(i / 3), &device);
    let found = module.forward(&paths, Some(features.mask_fill(unread, f32::NAN))).unwrap();
    assert_close(found.clone().inner(), wanted.inner(), 0.0);
    for (path, grad) in gradients(&module, &found.sum().backward()) {
        assert!(grad.is_none_or(f32::is_finite), "{path}: {grad:?}");
    }
}

#[test]
fn centrality_adds_an_encoding_of_the_degrees() {
    let device = reference_device();
    for directed in [false, true] {
        let module = shaken(CentralityEncodingConfig::new(3, 2).with_directed(directed).init(&device).unwrap());
        let nodes = noise([2, NODES, 3], 1, &device);
        let mut wanted = elements(nodes.clone());
        let outward = elements(module.outward.val());
        for (at, wanted) in wanted.iter_mut().enumerate() {
            let (graph, node, feature) = (at / 15, at / 3 % 5, at % 3);
            let out = (0..5).filter(|j| linked((graph * 5 + node) * 5 + j)).count().min(2);
            let into = (0..5).filter(|i| linked((graph * 5 + i) * 5 + node)).count().min(2);
            *wanted += outward[out * 3 + feature];
            if let Some(inward) = &module.inward {
                *wanted += elements(inward.val())[into * 3 + feature];
            }
        }
        assert_elements(module.forward(nodes, adjacency(&device)).unwrap(), &wanted, 1e-6);
    }
}

#[test]
fn graphormer_gradients_are_central_differences() {
    let device = reference_device();
    let [_, config] = biases();
    let paths = shortest_paths(adjacency(&device), 2).unwrap();
    let linked = adjacency(&device);
    let modules = (
        shaken(config.init(&device).unwrap()),
        shaken(CentralityEncodingConfig::new(4, 2).with_directed(true).init(&device).unwrap()),
        shaken(MultiHeadAttentionConfig::new(4, 2).init(&device).unwrap()),
        Input::new(noise([2, NODES, 4], 1, &device)),
        Input::new(edge_features(&config, &device).unwrap()),
    );
    assert_gradients(modules, |(bias, centrality, attention, nodes, edges)| {
        let nodes = centrality.forward(nodes.value(), linked.clone()).unwrap();
        let options = AttentionOptions::new().bias(bias.forward(&paths, Some(edges.value())).unwrap());
        let out = attention.self_attention(nodes, &options).unwrap().out;
        (out.clone() * out).sum()
    });
}

#[test]
fn graphormer_is_the_same_on_every_backend_and_out_of_a_record() {
    for config in biases() {
        assert_agreement(1e-5, |device| {
            let paths = shortest_paths(adjacency(device), 2).unwrap();
            shaken(config.init(device).unwrap()).forward(&paths, edge_features(&config, device)).unwrap()
        });
        let device = reference_device();
        let paths = shortest_paths(adjacency(&device), 2).unwrap();
        let first = shaken(config.init(&device).unwrap());
        let second = restored(&first, config.init(&device).unwrap());
        let [a, b] = [first, second].map(|made| made.forward(&paths, edge_features(&config, &device)).unwrap());
        assert_close(b, a, 0.0);
    }
    let config = CentralityEncodingConfig::new(3, 2).with_directed(true);
    assert_agreement(1e-6, |device| {
        shaken(config.init(device).unwrap()).forward(noise([2, NODES, 3], 1, device), adjacency(device)).unwrap()
    });
}

#[test]
fn graphormer_names_what_is_wrong() {
    let device = reference_device();
    let [plain, config] = biases().map(|config| config.init(&device).unwrap());
    let paths = shortest_paths(adjacency(&device), 2).unwrap();
    let features = |width| Some(noise([2, NODES, NODES, width], 3, &device));
    for (argument, made) in [
        ("edges", plain.forward(&paths, features(3))),
        ("edges", config.forward(&paths, None)),
        ("edges", config.forward(&paths, features(2))),
        ("paths", config.forward(&shortest_paths(adjacency(&device), 1).unwrap(), features(3))),
    ] {
        assert_eq!(made.map(|_| ()).unwrap_err().argument(), Some(argument));
    }
    for shape in [[0, 5, 5], [2, 0, 0]] {
        let paths = shortest_paths(bools(shape, |_| true, &device), 2).unwrap();
        let edges = Tensor::zeros([shape[0], shape[1], shape[1], 3], &device);
        assert_eq!(config.forward(&paths, Some(edges)).unwrap().dims(), [shape[0], 2, shape[1], shape[1]]);
    }
    let centrality = CentralityEncodingConfig::new(3, 2).init(&device).unwrap();
    let error = centrality.forward(noise([2, 5, 4], 1, &device), adjacency(&device)).map(|_| ()).unwrap_err();
    assert_eq!(error.argument(), Some("nodes"));
    let error = centrality.forward(noise([2, 4, 3], 1, &device), adjacency(&device)).map(|_| ()).unwrap_err();
    assert_eq!(error.argument(), Some("adjacency"));
    let sizes = |heads, max_distance| GraphormerBiasConfig::new(heads, max_distance);
    for (argument, config) in [
        ("heads", sizes(0, 2)),
        ("max_distance", sizes(2, 0)),
        ("max_hops", sizes(2, 2).with_max_hops(0)),
        ("d_edge", sizes(2, 2).with_d_edge(Some(0))),
    ] {
        assert_eq!(config.init(&device).map(|_| ()).unwrap_err().argument(), Some(argument), "{config}");
    }
    for (argument, config) in
        [("d_model", CentralityEncodingConfig::new(0, 2)), ("max_degree", CentralityEncodingConfig::new(3, 0))]
    {
        assert_eq!(config.init(&device).map(|_| ()).unwrap_err().argument(), Some(argument), "{config}");
    }
}
