//! What to do, as it stands in a file of JSON.

use std::fs;

use serde_json::Value;

use crate::Outcome;

/// The fields of one object.
pub(crate) struct Plan(Value);

impl Plan {
    pub(crate) fn read(path: &str) -> Outcome<Self> {
        let text = fs::read_to_string(path).map_err(|error| format!("{path}: {error}"))?;
        Ok(Self(serde_json::from_str(&text)?))
    }

    /// A number, where there is one.
    pub(crate) fn number(&self, name: &str) -> Option<u64> {
        self.0.get(name).and_then(Value::as_u64)
    }

    pub(crate) fn needed(&self, name: &str) -> Outcome<u64> {
        self.number(name)
            .ok_or_else(|| format!("the plan has no number `{name}`").into())
    }

    /// A number with a fraction, where there is one.
    pub(crate) fn float(&self, name: &str) -> Option<f64> {
        self.0.get(name).and_then(Value::as_f64)
    }

    /// A text, where there is one.
    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        self.0.get(name).and_then(Value::as_str)
    }

    pub(crate) fn needed_text(&self, name: &str) -> Outcome<&str> {
        self.text(name)
            .ok_or_else(|| format!("the plan has no text `{name}`").into())
    }

    pub(crate) fn flag(&self, name: &str) -> bool {
        self.0.get(name).and_then(Value::as_bool).unwrap_or(false)
    }

    /// The objects of a list.
    pub(crate) fn list(&self, name: &str) -> Vec<Self> {
        let list = self.0.get(name).and_then(Value::as_array);
        list.into_iter()
            .flatten()
            .map(|value| Self(value.clone()))
            .collect()
    }
}
