//! Autodiff on for the layer alone, or for one input alone, in every composed layer.

use attn_core::Mask;
use burn::tensor::{Device, Tensor};

use super::{bools, noise, reference_device};
use crate::nn::{
    AdaptiveSpanAttentionConfig, AttentionOptions, CentralityEncodingConfig, CoAttentionConfig, CoAttentionOptions,
    FeatureMap, GatedCrossAttentionConfig, Graph, GraphAttentionConfig, GraphormerBiasConfig, HaltingConfig,
    HierarchicalAttentionConfig, LinearAttentionConfig, PerceiverResamplerConfig, SpaceTimeBlockConfig,
    halting_attention, linear_attention, shortest_paths,
};

/// What a call gives is differentiable; `run(layer, first, second)` gets the devices of layer and inputs.
fn assert_mixes<const N: usize>(run: impl Fn(&Device, &Device, &Device) -> Tensor<N>) {
    let (plain, learning) = (reference_device(), reference_device().autodiff());
    for learns in [[true, false, false], [false, true, false], [false, false, true], [false, true, true]] {
        let [layer, first, second] = learns.map(|learns| if learns { &learning } else { &plain });
        assert!(run(layer, first, second).device().is_autodiff(), "{learns:?}");
    }
}

#[test]
fn layers_and_inputs_mix() {
    let mask = |shape: [usize; 2]| Mask::keep(bools(shape, |i| i % 4 != 3, &reference_device()));
    assert_mixes(|layer, a, b| {
        let first = a.is_autodiff() || !b.is_autodiff();
        let words = noise([1, 2, 3, 4], 1, if first { a } else { b });
        let padding = Mask::keep(bools([1, 2, 3], |i| i != 2, &reference_device()));
        let network = HierarchicalAttentionConfig::gru(4, 2, 3).init(layer).unwrap();
        network.forward(words, Some(padding)).unwrap().document
    });
    assert_mixes(|layer, a, b| {
        let first = a.is_autodiff() || !b.is_autodiff();
        let grid = noise([1, 2, 2, 2, 4], 1, if first { a } else { b });
        let block = SpaceTimeBlockConfig::new(4, 2, 4).with_causal_time(true).init(layer).unwrap();
        block.forward(grid, None).unwrap()
    });
    assert_mixes(|layer, a, b| {
        let block = CoAttentionConfig::new(4, 4, 2).init(layer).unwrap();
        let (left, right) = (noise([1, 2, 4], 1, a), noise([1, 3, 4], 2, b));
        block.forward(left, right, &CoAttentionOptions::default()).unwrap().left
    });
    assert_mixes(|layer, a, b| {
        let block = GatedCrossAttentionConfig::new(4, 4, 2).init(layer).unwrap();
        block.forward(noise([1, 2, 4], 1, a), noise([1, 3, 4], 2, b), &AttentionOptions::new()).unwrap().out
    });
    assert_mixes(|layer, a, b| {
        let first = a.is_autodiff() || !b.is_autodiff();
        let inputs = noise([1, 4, 4], 1, if first { a } else { b });
        let resampler = PerceiverResamplerConfig::new(4, 2, 2, 1).init(layer).unwrap();
        resampler.forward(inputs, Some(mask([1, 4]))).unwrap()
    });
}

#[test]
fn graphs_mix() {
    let adjacency = || bools([1, 3, 3], |i| i % 2 == 0, &reference_device());
    assert_mixes(|layer, a, b| {
        let mut graph = Graph::new(noise([1, 3, 4], 1, a), adjacency());
        graph.edges = Some(noise([1, 3, 3, 2], 2, b));
        let config = GraphAttentionConfig::new(4, 2, 2).with_d_edge(Some(2)).with_residual(true).with_bias(true);
        config.init(layer).unwrap().forward(graph).unwrap()
    });
    assert_mixes(|layer, a, b| {
        let nodes = noise([1, 3, 4], 1, a);
        let nodes = CentralityEncodingConfig::new(4, 2).init(layer).unwrap().forward(nodes, adjacency()).unwrap();
        let module = GraphormerBiasConfig::new(2, 2).with_d_edge(Some(2)).init(layer).unwrap();
        let paths = shortest_paths(adjacency(), 5).unwrap();
        let bias = module.forward(&paths, Some(noise([1, 3, 3, 2], 2, b))).unwrap();
        bias + nodes.sum().reshape([1, 1, 1, 1])
    });
}

#[test]
fn linear_adaptive_and_halting_mix() {
    for causal in [false, true] {
        assert_mixes(|layer, a, b| {
            let config = LinearAttentionConfig::new(4, 2).with_causal(causal);
            config.init(layer).unwrap().forward(noise([1, 2, 4], 1, a), noise([1, 3, 4], 2, b), None).unwrap()
        });
        assert_mixes(|query, key, value| {
            let (q, k, v) =
                (noise([1, 2, 70, 4], 1, query), noise([1, 2, 75, 4], 2, key), noise([1, 2, 75, 4], 3, value));
            linear_attention(q, k, v, None, FeatureMap::EluPlusOne, causal).unwrap()
        });
        assert_mixes(|query, key, value| {
            let (q, k, v) = (noise([1, 2, 3, 4], 1, query), noise([1, 2, 9, 4], 2, key), noise([1, 2, 9, 4], 3, value));
            let config = HaltingConfig::new(0.1).with_chunk(4).with_causal(causal);
            halting_attention(q, k, v, None, &config).unwrap().out
        });
        assert_mixes(|layer, a, b| {
            let first = a.is_autodiff() || !b.is_autodiff();
            let hidden = noise([1, 5, 4], 1, if first { a } else { b });
            let config = AdaptiveSpanAttentionConfig::new(4, 2, 3).with_causal(causal);
            config.init(layer).unwrap().forward(hidden, None).unwrap()
        });
    }
}
