//! Attention in a browser, on the visitor's GPU by WebGPU: problems with every option are answered there, forward and backward, and by
//! the formulas in f64 on the page's own thread; the page shows how far apart they are, and a heat map of weights.
//!
//! ```sh
//! rustup target add wasm32-unknown-unknown
//! cargo install wasm-bindgen-cli --version 0.2.130   # the version of wasm-bindgen in Cargo.lock
//! cargo build --release --target wasm32-unknown-unknown --package attn-example-browser
//! wasm-bindgen --target web --out-dir examples/browser/pkg target/wasm32-unknown-unknown/release/attn_example_browser.wasm
//! python3 -m http.server --directory examples/browser   # then open the address that it prints
//! ```
//!
//! What differs from other programs: an adapter is started by `Device::wgpu_options().init_async().await`, tensors are read by
//! `into_data_async().await`, since a page can't wait, and the feature `wasm_js` of `getrandom` is turned on, as Burn wants it.

#![cfg(target_family = "wasm")]

mod page;
mod problems;
