//! The JSON in a case's metadata: `spec` and `tol`.

use std::collections::BTreeMap;

use attn_core::{Alignment, AttentionSpec, Window};
use serde::Deserialize;

use super::Fault;

/// `spec` as it is written; `null` is the default.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    #[serde(default)]
    scale: Option<f64>,
    #[serde(default)]
    softcap: Option<f64>,
    #[serde(default)]
    causal: Option<bool>,
    #[serde(default)]
    window_left: Option<usize>,
    #[serde(default)]
    window_right: Option<usize>,
    #[serde(default)]
    align: Option<Align>,
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "align: expected \"bottom_right\", \"top_left\" or an integer")]
enum Align {
    Offset(i64),
    Named(Named),
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum Named {
    BottomRight,
    TopLeft,
}

/// Reads the metadata `spec`.
pub(super) fn spec(json: &str) -> Result<AttentionSpec, Fault> {
    let fault = |error: serde_json::Error| Fault::Json { key: "spec", reason: error.to_string() };
    // An object first: serde would take a list as the values in their order.
    let object: serde_json::Map<String, serde_json::Value> = serde_json::from_str(json).map_err(fault)?;
    let written = Written::deserialize(serde_json::Value::Object(object)).map_err(fault)?;
    Ok(AttentionSpec {
        scale: written.scale,
        softcap: written.softcap,
        causal: written.causal.unwrap_or(false),
        window: Window { left: written.window_left, right: written.window_right },
        alignment: match written.align {
            None | Some(Align::Named(Named::BottomRight)) => Alignment::BottomRight,
            Some(Align::Named(Named::TopLeft)) => Alignment::TopLeft,
            Some(Align::Offset(offset)) => Alignment::Offset(offset),
        },
        dropout: None,
    })
}

/// Reads the metadata `tol`: a tolerance of each expected tensor.
pub(super) fn tolerances(json: &str) -> Result<BTreeMap<String, f64>, Fault> {
    let fault = |reason| Fault::Json { key: "tol", reason };
    let tolerances: BTreeMap<String, f64> = serde_json::from_str(json).map_err(|error| fault(error.to_string()))?;
    match tolerances.iter().find(|(_, tolerance)| tolerance.is_nan() || **tolerance < 0.0) {
        Some((name, tolerance)) => Err(fault(format!("{name}: expected a number of at least 0, found {tolerance}"))),
        None => Ok(tolerances),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn absent_and_null_are_the_default() {
        assert_eq!(spec("{}"), Ok(AttentionSpec::default()));
        let nulls = r#"{"scale": null, "softcap": null, "causal": null, "window_left": null, "align": null}"#;
        assert_eq!(spec(nulls), Ok(AttentionSpec::default()));
    }

    #[test]
    fn every_key_is_read() {
        let json = r#"{"scale": 0, "softcap": 2.5, "causal": true, "window_left": 3, "window_right": 0, "align": -4}"#;
        let expected = AttentionSpec::new()
            .with_scale(0.0)
            .with_softcap(2.5)
            .with_causal(true)
            .with_window(Some(3), Some(0))
            .with_alignment(Alignment::Offset(-4));
        assert_eq!(spec(json), Ok(expected));
        assert_eq!(spec(r#"{"align": "top_left"}"#).map(|spec| spec.alignment), Ok(Alignment::TopLeft));
        assert_eq!(spec(r#"{"align": "bottom_right"}"#).map(|spec| spec.alignment), Ok(Alignment::BottomRight));
    }

    #[test]
    fn what_is_not_understood_is_named() {
        let reason = |json: &str| match spec(json) {
            Err(Fault::Json { key: "spec", reason }) => reason,
            other => panic!("{json} gave {other:?}"),
        };
        assert!(reason(r#"{"dropout": 0.1}"#).contains("dropout"));
        assert!(reason(r#"{"align": "middle"}"#).contains("align"));
        assert!(reason(r#"{"window_left": -1}"#).contains("-1"));
        assert!(reason(r#"{"causal": 1}"#).contains("boolean"));
        reason("{");
        reason("[]");
    }

    #[test]
    fn tolerances_are_numbers_of_at_least_0() {
        assert_eq!(tolerances(r#"{"out": 1e-5}"#).map(|t| t["out"]), Ok(1e-5));
        for bad in [r#"{"out": -1}"#, r#"{"out": "1e-5"}"#, r#"{"out": NaN}"#, "", "3"] {
            assert!(matches!(tolerances(bad), Err(Fault::Json { key: "tol", .. })), "{bad}");
        }
    }
}
