// SPDX-License-Identifier: GPL-2.0

//! The unions as a tree: what each lies on, drawn once for all unions on it.

use std::path::Path;

use serde::Serialize;
use ubcore::error::Role;
use ubcore::format::below_list::ListedLayer;
use ubcore::stack::chain::{LayerId, Seal};

use super::super::status::Shown;
use crate::device::{Access, Device};
use crate::in_use::{self, UsedLayer};
use crate::layer_arg::LayerArg;
use crate::{below, output};

/// A root, a layer or a union, and what lies on it.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct TreeNode {
    /// `root`, `layer` or `union`.
    kind: &'static str,
    /// The path, or the name of the union.
    name: String,
    /// The identity of a layer, or the leaf of a union.
    detail: String,
    /// What lies on it.
    above: Vec<TreeNode>,
}

impl TreeNode {
    fn new(kind: &'static str, name: String, detail: String) -> TreeNode {
        let above = Vec::new();
        TreeNode {
            kind,
            name,
            detail,
            above,
        }
    }

    fn is_same(&self, other: &TreeNode) -> bool {
        (self.kind, &self.name, &self.detail) == (other.kind, &other.name, &other.detail)
    }
}

/// Returns the tree of all unions.
pub fn of(unions: &[Shown]) -> Vec<TreeNode> {
    let mut roots = Vec::new();
    for union in unions {
        let mut way = vec![TreeNode::new("root", union.root_text(), String::new())];
        // The leaf is in use. A leaf that cannot be read has no layers here.
        let leaf = Device::open(Path::new(&union.leaf_device()), Role::Leaf, Access::Read);
        let listed = leaf
            .and_then(|leaf| below::list_of(&leaf))
            .unwrap_or_default();
        way.extend(layers(union, &listed));
        let detail = union.leaf_text();
        way.push(TreeNode::new("union", union.name.clone(), detail));
        add(&mut roots, way);
    }
    roots
}

/// Adds the nodes from a root up to a union, as far as the tree does not have them.
fn add(nodes: &mut Vec<TreeNode>, way: Vec<TreeNode>) {
    let mut nodes = nodes;
    for step in way {
        let at = nodes.iter().position(|node| node.is_same(&step));
        let at = at.unwrap_or_else(|| {
            nodes.push(step);
            nodes.len() - 1
        });
        nodes = &mut nodes[at].above;
    }
}

/// Returns the layers that a union has open. If they cannot be read, returns the layers that its
/// leaf lists, with the paths that they had at format.
fn layers(union: &Shown, listed: &[ListedLayer]) -> Vec<TreeNode> {
    let open = in_use::layers(union.id());
    let ids: Vec<LayerId> = listed.iter().map(|layer| layer.id).collect();
    if let Some(layers) = in_use::in_order(&ids, &open, union.layers()) {
        let layer = |l: &UsedLayer| layer(l.at.name(), &l.id);
        return layers.into_iter().map(layer).collect();
    }
    let layer = |l: &ListedLayer| {
        let path = LayerArg::listed(l).map_or_else(String::new, |layer| layer.name());
        layer(path, &l.id)
    };
    listed.iter().map(layer).collect()
}

fn layer(path: String, id: &LayerId) -> TreeNode {
    let mut detail = output::layer(id);
    if let LayerId::Frozen(_, Seal(seal)) = id {
        detail += &format!(", seal {}", output::hex(seal));
    }
    TreeNode::new("layer", path, detail)
}

/// Returns the tree as lines. Identities are cut to what tells them apart at a glance.
pub fn text(roots: &[TreeNode]) -> String {
    let mut out = String::new();
    for root in roots {
        out += &format!("root {}\n", root.name);
        lines(&root.above, "", &mut out);
    }
    out
}

fn lines(nodes: &[TreeNode], indent: &str, out: &mut String) {
    for (n, node) in (1..).zip(nodes) {
        let last = n == nodes.len();
        let (branch, more) = if last {
            ("└─ ", "   ")
        } else {
            ("├─ ", "│  ")
        };
        let text = match node.kind {
            "layer" => {
                let id: String = node.detail.chars().take("frozen ".len() + 8).collect();
                format!("layer {} ({id})", node.name)
            }
            _ => format!("{}  leaf {}", node.name, node.detail),
        };
        *out += &format!("{indent}{branch}{text}\n");
        lines(&node.above, &format!("{indent}{more}"), out);
    }
}

#[cfg(test)]
mod tests {
    use super::{add, text, TreeNode};

    #[test]
    fn what_unions_share_is_drawn_once() {
        let layer = |name: &str| {
            let detail = format!("frozen {name}2345678-and-more");
            TreeNode::new("layer", name.to_owned(), detail)
        };
        let root = |name: &str| TreeNode::new("root", name.to_owned(), String::new());
        let union = |name: &str| TreeNode::new("union", name.to_owned(), format!("{name}.leaf"));
        let mut roots = Vec::new();
        add(&mut roots, vec![root("r"), layer("a"), union("u0")]);
        add(
            &mut roots,
            vec![root("r"), layer("a"), layer("b"), union("u1")],
        );
        add(&mut roots, vec![root("none"), union("u2")]);
        add(
            &mut roots,
            vec![root("r"), layer("a"), layer("b"), union("u3")],
        );
        assert_eq!(
            text(&roots),
            "root r\n\
             └─ layer a (frozen a2345678)\n   \
             ├─ u0  leaf u0.leaf\n   \
             └─ layer b (frozen b2345678)\n      \
             ├─ u1  leaf u1.leaf\n      \
             └─ u3  leaf u3.leaf\n\
             root none\n\
             └─ u2  leaf u2.leaf\n"
        );
    }
}
