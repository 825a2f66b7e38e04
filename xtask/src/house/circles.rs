//! Finds the shortest circle of a graph.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// What each node refers to.
pub type Graph<Node> = BTreeMap<Node, BTreeSet<Node>>;

/// The nodes of the shortest circle, in order; None if there is none.
pub fn shortest<Node: Ord + Clone>(graph: &Graph<Node>) -> Option<Vec<Node>> {
    graph.keys().filter_map(|start| circle_from(graph, start)).min_by_key(Vec::len)
}

/// The shortest way from a node back to itself.
fn circle_from<Node: Ord + Clone>(graph: &Graph<Node>, start: &Node) -> Option<Vec<Node>> {
    let mut came_from: BTreeMap<&Node, &Node> = BTreeMap::new();
    let mut queue = VecDeque::from([start]);
    while let Some(node) = queue.pop_front() {
        for next in graph.get(node).into_iter().flatten() {
            if next == start {
                let back = std::iter::successors(Some(node), |at| came_from.get(at).copied());
                let mut circle: Vec<Node> = back.cloned().collect();
                circle.reverse();
                return Some(circle);
            }
            if !came_from.contains_key(next) {
                came_from.insert(next, node);
                queue.push_back(next);
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn graph(edges: &[(&'static str, &'static str)]) -> Graph<&'static str> {
        let mut graph = Graph::new();
        for (from, to) in edges {
            graph.entry(*from).or_insert_with(BTreeSet::new).insert(*to);
        }
        graph
    }

    #[test]
    fn a_tree_has_none() {
        assert_eq!(shortest(&graph(&[("a", "b"), ("a", "c"), ("b", "d"), ("c", "d")])), None);
    }

    #[test]
    fn the_shortest_is_told_whole() {
        let edges = [("a", "b"), ("b", "c"), ("c", "d"), ("d", "a"), ("c", "e"), ("e", "b")];
        assert_eq!(shortest(&graph(&edges)), Some(vec!["b", "c", "e"]));
        assert_eq!(shortest(&graph(&[("a", "b"), ("b", "a")])), Some(vec!["a", "b"]));
    }
}
