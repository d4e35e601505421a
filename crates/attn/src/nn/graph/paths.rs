//! Shortest paths between the nodes of a graph, found on the host.

use std::collections::VecDeque;

use attn_core::AttentionError;
use burn::tensor::{Bool, Int, Tensor, TensorData};

/// The shortest paths of B graphs of N nodes; made by [`shortest_paths`].
#[derive(Debug, Clone)]
pub struct ShortestPaths {
    /// Edges on the shortest path from i to j, `[B, N, N]`; 0 from a node to itself, −1 where there is no path.
    pub distances: Tensor<3, Int>,
    /// The first edges of that path, from i on, `[B, N, N, hops]`: the edge from a to b as the number `a·N + b`, −1 past the end.
    /// Numbers of `N²` and more, which no edge has, are read as the last edge's.
    pub edges: Tensor<4, Int>,
}

/// Finds the shortest paths along `adjacency` `[B, N, N]` (true at `[_, i, j]`: an edge from i to j), and the first `hops` edges
/// of each. Of paths equally short it takes the one that breadth-first search meets first, neighbours in the order of their
/// numbers.
///
/// The adjacency is read back to the host. Time and memory in `B·N²·(N + hops)`: do it once for a graph, not once for a call.
///
/// # Errors
/// A shape error that names `adjacency` where it is not square, and an execution error where it cannot be read.
pub fn shortest_paths(adjacency: Tensor<3, Bool>, hops: usize) -> Result<ShortestPaths, AttentionError> {
    let [batch, count, columns] = adjacency.dims();
    if count != columns {
        return Err(AttentionError::shape("adjacency", format!("[{batch}, {count}, {count}]"), &adjacency.dims()));
    }
    let device = adjacency.device();
    let read = |error: String| AttentionError::Execution { kernel: "shortest_paths".into(), reason: error };
    let linked = adjacency.try_into_vec_as::<bool>().map_err(|error| read(error.to_string()))?;
    let mut distances = vec![-1_i64; batch * count * count];
    let mut edges = vec![-1_i64; batch * count * count * hops];
    for (graph, linked) in linked.chunks_exact((count * count).max(1)).enumerate() {
        for from in 0..count {
            let at = (graph * count + from) * count;
            let edges = &mut edges[at * hops..(at + count) * hops];
            search(linked, count, from, &mut distances[at..at + count], edges, hops);
        }
    }
    Ok(ShortestPaths {
        distances: Tensor::from_data(TensorData::new(distances, [batch, count, count]), &device),
        edges: Tensor::from_data(TensorData::new(edges, [batch, count, count, hops]), &device),
    })
}

/// Breadth-first search from one node: distances `[N]`, edges `[N, hops]`, both full of −1 when it begins.
fn search(linked: &[bool], count: usize, from: usize, distances: &mut [i64], edges: &mut [i64], hops: usize) {
    distances[from] = 0;
    let mut queue = VecDeque::from([from]);
    while let Some(node) = queue.pop_front() {
        let length = distances[node];
        for next in 0..count {
            if !linked[node * count + next] || distances[next] >= 0 {
                continue;
            }
            distances[next] = length + 1;
            edges.copy_within(node * hops..(node + 1) * hops, next * hops);
            if (length as usize) < hops {
                edges[next * hops + length as usize] = (node * count + next) as i64;
            }
            queue.push_back(next);
        }
    }
}
