//! Reads a request's fields into domain values, and collects every fault instead of stopping at the first.

use std::fmt;
use std::ops::RangeInclusive;

use actix_web::http::header::{HeaderName, HeaderValue};
use actix_web::{HttpRequest, web};
use leadr_auth_domain::text::is_control;
use leadr_auth_domain::{
    Scope, ScopeFault, ScopeSet, TextFault, Timestamp, TimestampFault, redact_keys,
};
use percent_encoding::percent_decode_str;
use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::Value;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::error::{ApiError, Fault};

/// How much of a field's name is repeated to whoever made it up, in characters.
const MAX_REPEATED: usize = 64;

/// What a field's value is not.
pub(crate) struct Wrong {
    kind: &'static str,
    msg: String,
}

impl Wrong {
    pub(crate) fn new(kind: &'static str, msg: impl Into<String>) -> Self {
        Self {
            kind,
            msg: msg.into(),
        }
    }
}

/// The fields of one part of a request, and what was found wrong with them so far.
pub(crate) struct Fields {
    place: &'static str,
    given: Vec<(String, Json)>,
    /// Whether a field that nobody asked for is a fault.
    strict: bool,
    faults: Vec<Fault>,
}

impl Fields {
    /// The most scopes that a request names.
    pub(crate) const MAX_SCOPES: usize = ScopeSet::MAX;

    /// The parameters in the path.
    pub(crate) fn path(request: &HttpRequest) -> Self {
        let given = request.match_info().iter();
        let given = given
            .map(|(name, value)| (name.to_owned(), Json::Plain(value.into())))
            .collect();
        Self {
            place: "path",
            given,
            strict: false,
            faults: Vec::new(),
        }
    }

    /// The values of one header, which faults call `shown`.
    pub(crate) fn header(request: &HttpRequest, name: &HeaderName, shown: &str) -> Self {
        let values = request.headers().get_all(name);
        // What is no text is nothing that is expected of a header, whatever that is.
        let text = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
        let given = values
            .map(|value| (shown.to_owned(), Json::Plain(text(value).into())))
            .collect();
        Self {
            place: "header",
            given,
            strict: false,
            faults: Vec::new(),
        }
    }

    /// The parameters after the question mark. Those that nobody asked for are ignored, as clients and proxies expect.
    pub(crate) fn query(query: &str) -> Self {
        // What is no UTF-8 would be read as something that nobody sent.
        let is_text = percent_decode_str(query).decode_utf8().is_ok();
        let parsed = is_text.then(|| web::Query::<Vec<(String, String)>>::from_query(query));
        let (given, faults) = match parsed {
            Some(Ok(given)) => (given.into_inner(), Vec::new()),
            Some(Err(_)) | None => (
                Vec::new(),
                vec![Fault::new(
                    "query_parsing",
                    &["query"],
                    "Not a well-formed query of percent-encoded UTF-8",
                )],
            ),
        };
        let given = given
            .into_iter()
            .map(|(name, value)| (name, Json::Plain(value.into())))
            .collect();
        Self {
            place: "query",
            given,
            strict: false,
            faults,
        }
    }

    /// The parameters after the question mark of a route that knows all of them: one that nobody asked for is a fault.
    pub(crate) fn strict_query(query: &str) -> Self {
        let mut query = Self::query(query);
        query.strict = query.faults.is_empty();
        query
    }

    /// The fields of a JSON object. One that nobody asks for is a fault: a misspelled `expires_at` must not make a key that
    /// never expires.
    pub(crate) fn body(body: &[u8]) -> Self {
        let place = "body";
        let (given, faults) = match serde_json::from_slice::<Json>(body) {
            Ok(document) => return Self::object(document),
            Err(_) if body.is_empty() => (
                Vec::new(),
                vec![Fault::new("missing", &[place], "Field required")],
            ),
            Err(error) => {
                let msg = format!("JSON decode error: {error}");
                (Vec::new(), vec![Fault::new("json_invalid", &[place], msg)])
            }
        };
        Self {
            place,
            given,
            strict: faults.is_empty(),
            faults,
        }
    }

    /// The fields of an object in a body, or that it is none.
    fn object(document: Json) -> Self {
        let place = "body";
        let (given, faults) = if let Json::Object(given) = document {
            (given, Vec::new())
        } else {
            let msg = "Input should be a JSON object";
            (Vec::new(), vec![Fault::new("object_type", &[place], msg)])
        };
        Self {
            place,
            given,
            strict: faults.is_empty(),
            faults,
        }
    }

    /// The fields of a JSON object that says what is to change: where there is no body at all, nothing is.
    pub(crate) fn changes(body: &[u8]) -> Self {
        Self::body(if body.is_empty() { b"{}" } else { body })
    }

    /// A field that may be absent or null.
    pub(crate) fn optional<T>(
        &mut self,
        name: &str,
        parse: impl Fn(&Value) -> Result<T, Wrong>,
    ) -> Option<T> {
        match self.take(name)?.into() {
            Value::Null => None,
            value => self.parsed(name, &value, parse),
        }
    }

    /// A list that may be absent or null. Every item that is wrong is a fault of its own, with its place in the list.
    pub(crate) fn optional_list<T>(
        &mut self,
        name: &str,
        parse: impl Fn(&Value) -> Result<T, Wrong>,
    ) -> Option<Vec<T>> {
        let items = match self.take(name)? {
            Json::List(items) => items,
            Json::Plain(Value::Null) => return None,
            Json::Plain(_) | Json::Object(_) => {
                self.not_a_list(name);
                return None;
            }
        };
        let mut parsed = Vec::with_capacity(items.len());
        for (index, item) in items.into_iter().enumerate() {
            match parse(&item.into()) {
                Ok(item) => parsed.push(item),
                Err(Wrong { kind, msg }) => {
                    let fault = Fault::new(kind, &[self.place, name], msg);
                    self.faults.push(fault.at_item(index));
                }
            }
        }
        Some(parsed)
    }

    /// A list of objects that must be there, with as many as `lengths` says. `parse` takes from each what is wanted of it; what
    /// is wrong with one is a fault with its place in the list.
    pub(crate) fn required_objects<T>(
        &mut self,
        name: &str,
        lengths: RangeInclusive<usize>,
        parse: impl Fn(&mut Self) -> Option<T>,
    ) -> Option<Vec<T>> {
        let Some(given) = self.take(name) else {
            self.missing(name);
            return None;
        };
        let Json::List(items) = given else {
            self.not_a_list(name);
            return None;
        };
        if !lengths.contains(&items.len()) {
            let (min, max) = lengths.into_inner();
            let kind = if items.len() < min {
                "too_short"
            } else {
                "too_long"
            };
            let msg = format!("List should have {min} to {max} items");
            self.fault(kind, name, msg);
            return None;
        }
        let mut parsed = Vec::with_capacity(items.len());
        for (index, item) in items.into_iter().enumerate() {
            let mut item = Self::object(item);
            parsed.extend(parse(&mut item));
            let faults = item.into_faults().into_iter();
            self.faults
                .extend(faults.map(|fault| fault.in_item(name, index)));
        }
        Some(parsed)
    }

    fn not_a_list(&mut self, name: &str) {
        self.fault("list_type", name, "Input should be a valid list");
    }

    /// A set of scopes that may be absent or null. One that is named twice counts twice, as a schema has it.
    pub(crate) fn optional_scopes(&mut self, name: &str) -> Option<ScopeSet> {
        let scopes = self.optional_list(name, scope)?;
        let set = if scopes.len() > Self::MAX_SCOPES {
            let max = Self::MAX_SCOPES;
            Err(ScopeFault::TooMany { max })
        } else {
            ScopeSet::new(scopes)
        };
        set.map_err(|fault| self.fault("too_long", name, format!("Input has {fault}")))
            .ok()
    }

    /// The scopes that a query names, one at a time.
    pub(crate) fn each_scope(&mut self, name: &str) -> Vec<Scope> {
        let given = self.take_all(name);
        if given.len() > Self::MAX_SCOPES {
            let msg = format!("Input has more than {} scopes", Self::MAX_SCOPES);
            self.fault("too_long", name, msg);
            return Vec::new();
        }
        let given = given.into_iter();
        given
            .filter_map(|value| self.parsed(name, &value.into(), scope))
            .collect()
    }

    /// A field that must be there.
    pub(crate) fn required<T>(
        &mut self,
        name: &str,
        parse: impl Fn(&Value) -> Result<T, Wrong>,
    ) -> Option<T> {
        if let Some(value) = self.take(name) {
            return self.parsed(name, &value.into(), parse);
        }
        self.missing(name);
        None
    }

    /// Reports a field as missing, where whether it has to be there depends on more than itself. One that is there and
    /// wrong is not missing; and where there are no fields at all, that is the fault.
    pub(crate) fn missing(&mut self, name: &str) {
        let at = |place: &[&str]| self.faults.iter().any(|fault| fault.is_at(place));
        // Where nothing could be read, nobody knows what is missing.
        if !at(&[self.place, name]) && !at(&[self.place]) {
            self.fault("missing", name, "Field required");
        }
    }

    fn take(&mut self, name: &str) -> Option<Json> {
        let mut values = self.take_all(name);
        if values.len() > 1 {
            // Which of them counts is a matter of opinion, and opinions differ between proxies and servers.
            self.fault("duplicate", name, "Field given more than once");
        }
        values.pop()
    }

    /// Every value of a field that may be given more than once.
    fn take_all(&mut self, name: &str) -> Vec<Json> {
        let mut values = Vec::new();
        self.given.retain_mut(|(given, value)| {
            let wanted = given == name;
            if wanted {
                values.push(std::mem::replace(value, Json::Plain(Value::Null)));
            }
            !wanted
        });
        values
    }

    fn parsed<T>(
        &mut self,
        name: &str,
        value: &Value,
        parse: impl Fn(&Value) -> Result<T, Wrong>,
    ) -> Option<T> {
        match parse(value) {
            Ok(value) => Some(value),
            Err(Wrong { kind, msg }) => {
                self.fault(kind, name, msg);
                None
            }
        }
    }

    fn fault(&mut self, kind: &'static str, name: &str, msg: impl Into<String>) {
        self.faults.push(Fault::new(kind, &[self.place, name], msg));
    }

    fn into_faults(mut self) -> Vec<Fault> {
        if self.strict {
            for (name, _) in std::mem::take(&mut self.given) {
                let msg = "Extra inputs are not permitted";
                // It may be a key that was put in the wrong place.
                self.fault("extra_forbidden", &cut(&redact_keys(&name)), msg);
            }
        }
        self.faults
    }
}

/// A client's text, which may be as long as its request, with no more of it than an answer needs.
fn cut(text: &str) -> String {
    let mut rest = text.chars();
    let repeated: String = rest.by_ref().take(MAX_REPEATED).collect();
    if rest.next().is_some() {
        repeated + "…"
    } else {
        repeated
    }
}

/// `value`, if nothing was wrong with any part of the request; or everything that was.
pub(crate) fn finish<T, const N: usize>(
    parts: [Fields; N],
    value: Option<T>,
) -> Result<T, ApiError> {
    let faults: Vec<_> = parts.into_iter().flat_map(Fields::into_faults).collect();
    match value {
        Some(value) if faults.is_empty() => Ok(value),
        None if faults.is_empty() => Err(ApiError::internal("a field is missing without a fault")),
        _ => Err(ApiError::Validation(faults)),
    }
}

/// A text.
pub(crate) fn string(value: &Value) -> Result<&str, Wrong> {
    value
        .as_str()
        .ok_or_else(|| Wrong::new("string_type", "Input should be a valid string"))
}

/// A text without control characters, also of the direction of text.
pub(crate) fn control_free(value: &Value) -> Result<&str, Wrong> {
    let text = string(value)?;
    if text.chars().any(is_control) {
        return Err(Wrong::new("control_character", NO_CONTROLS));
    }
    Ok(text)
}

const NO_CONTROLS: &str = "String should have no control characters";

/// Something that a key may be used for. The scopes that begin with `keys`, `accounts` or `audit` are the service's own, all
/// others the application's; a last segment `*` stands for everything that goes on from there.
#[derive(ToSchema)]
#[schema(
    as = Scope,
    max_length = 128,
    pattern = "^(keys:(read|write|verify)|accounts:(read|write)|audit:read|(?!(keys|accounts|audit)(:|$))[a-z0-9_.-]+(:[a-z0-9_.-]+)*(:\\*)?)$"
)]
#[expect(dead_code, reason = "it describes a text that is read into a Scope")]
pub(crate) struct WireScope(String);

/// A scope.
fn scope(value: &Value) -> Result<Scope, Wrong> {
    Scope::parse(string(value)?).map_err(|fault| {
        let kind = match fault {
            ScopeFault::TooLong { .. } => "string_too_long",
            ScopeFault::Unknown => "enum",
            ScopeFault::Malformed | ScopeFault::TooMany { .. } => "string_pattern_mismatch",
        };
        Wrong::new(kind, format!("The scope is {fault}"))
    })
}

/// A UUID, of any version, with hyphens or without.
pub(crate) fn uuid(value: &Value) -> Result<Uuid, Wrong> {
    let text = string(value)?;
    let plain = matches!(text.len(), 32 | 36);
    Uuid::parse_str(text)
        .ok()
        .filter(|_| plain)
        .ok_or_else(|| Wrong::new("uuid_parsing", "Input should be a valid UUID"))
}

/// A timestamp of RFC 3339 with an offset.
pub(crate) fn timestamp(value: &Value) -> Result<Timestamp, Wrong> {
    let text = value
        .as_str()
        .ok_or_else(|| Wrong::new("datetime_type", "Input should be a valid datetime"))?;
    Timestamp::parse(text).map_err(|fault| match fault {
        TimestampFault::Malformed => Wrong::new(
            "datetime_parsing",
            "Input should be a valid datetime (RFC 3339)",
        ),
        TimestampFault::NoOffset => Wrong::new(
            "timezone_aware",
            "Input should have timezone info (an offset, or Z)",
        ),
        TimestampFault::OutOfRange => Wrong::new(
            "datetime_out_of_range",
            "Input should be between the years 1 and 9999",
        ),
    })
}

/// A text that the domain checks.
pub(crate) fn text<T>(
    parse: fn(&str) -> Result<T, TextFault>,
) -> impl Fn(&Value) -> Result<T, Wrong> {
    move |value| {
        parse(string(value)?).map_err(|fault| match fault {
            TextFault::TooShort { min } => Wrong::new(
                "string_too_short",
                format!("String should have at least {min} character{}", plural(min)),
            ),
            TextFault::TooLong { max } => Wrong::new(
                "string_too_long",
                format!("String should have at most {max} character{}", plural(max)),
            ),
            TextFault::ControlCharacter => Wrong::new("control_character", NO_CONTROLS),
            TextFault::HoldsKey => Wrong::new("api_key", format!("String {fault}")),
            TextFault::NotASlug => Wrong::new(
                "string_pattern_mismatch",
                "String should match pattern '^[a-z0-9]+(?:-[a-z0-9]+)*$'",
            ),
        })
    }
}

fn plural(n: usize) -> &'static str {
    if n == 1 { "" } else { "s" }
}

/// A whole number of a query.
pub(crate) fn number(min: u32, max: u32) -> impl Fn(&Value) -> Result<u32, Wrong> {
    move |value| {
        let number = string(value)?.parse().ok();
        number
            .filter(|number| (min..=max).contains(number))
            .ok_or_else(|| {
                let msg = format!("Input should be a whole number from {min} to {max}");
                Wrong::new("int_out_of_range", msg)
            })
    }
}

/// A whole number of a body. JSON has one kind of number only: `1.0` and `1e0` are 1, and there are programs that write it so.
pub(crate) fn whole(value: &Value) -> Option<u32> {
    if let Some(number) = value.as_u64() {
        return number.try_into().ok();
    }
    let number = value.as_f64().filter(|number| number.fract() == 0.0)?;
    let is_in_range = (0.0..=f64::from(u32::MAX)).contains(&number);
    // Such a number is written without a fraction, and so without loss. Without `abs`, a zero can have a sign.
    let text = is_in_range.then(|| number.abs().to_string())?;
    text.parse().ok()
}

/// `true` or `false` of a query.
pub(crate) fn flag(value: &Value) -> Result<bool, Wrong> {
    match string(value)? {
        "true" => Ok(true),
        "false" => Ok(false),
        _ => Err(Wrong::new(
            "bool_parsing",
            "Input should be 'true' or 'false'",
        )),
    }
}

/// `true` or `false`, and nothing that resembles it.
pub(crate) fn boolean(value: &Value) -> Result<bool, Wrong> {
    value
        .as_bool()
        .ok_or_else(|| Wrong::new("bool_type", "Input should be a valid boolean"))
}

/// A JSON document with every object's fields in the order given, duplicates included.
enum Json {
    Object(Vec<(String, Json)>),
    List(Vec<Json>),
    /// Everything else.
    Plain(Value),
}

impl From<Json> for Value {
    fn from(json: Json) -> Self {
        match json {
            Json::Object(fields) => fields
                .into_iter()
                .map(|(name, field)| (name, Self::from(field)))
                .collect(),
            Json::List(items) => items.into_iter().map(Self::from).collect(),
            Json::Plain(value) => value,
        }
    }
}

impl<'de> Deserialize<'de> for Json {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Document;

        impl<'de> Visitor<'de> for Document {
            type Value = Json;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON document")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Json, A::Error> {
                let mut fields = Vec::new();
                while let Some(field) = map.next_entry()? {
                    fields.push(field);
                }
                Ok(Json::Object(fields))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Json, A::Error> {
                let mut items = Vec::new();
                while let Some(item) = seq.next_element()? {
                    items.push(item);
                }
                Ok(Json::List(items))
            }

            fn visit_bool<E>(self, value: bool) -> Result<Json, E> {
                Ok(Json::Plain(value.into()))
            }

            fn visit_i64<E>(self, value: i64) -> Result<Json, E> {
                Ok(Json::Plain(value.into()))
            }

            fn visit_u64<E>(self, value: u64) -> Result<Json, E> {
                Ok(Json::Plain(value.into()))
            }

            fn visit_f64<E>(self, value: f64) -> Result<Json, E> {
                Ok(Json::Plain(value.into()))
            }

            fn visit_str<E>(self, value: &str) -> Result<Json, E> {
                Ok(Json::Plain(value.into()))
            }

            fn visit_string<E>(self, value: String) -> Result<Json, E> {
                Ok(Json::Plain(value.into()))
            }

            fn visit_unit<E>(self) -> Result<Json, E> {
                Ok(Json::Plain(Value::Null))
            }
        }

        deserializer.deserialize_any(Document)
    }
}

#[cfg(test)]
mod tests {
    use leadr_auth_domain::KeyName;

    use super::*;

    fn faults(fields: Fields) -> Vec<String> {
        let faults = serde_json::to_value(fields.into_faults()).unwrap();
        let faults = faults.as_array().unwrap();
        faults
            .iter()
            .map(|fault| format!("{} {}", fault["type"], fault["loc"]))
            .collect()
    }

    #[test]
    fn every_fault_is_collected() {
        let mut fields = Fields::body(
            br#"{"id":7,"at":"2026-01-01T00:00:00","flag":"true","misspelled":1,"id":"x"}"#,
        );
        assert!(fields.required("name", text(KeyName::parse)).is_none());
        assert!(fields.optional("id", uuid).is_none());
        assert!(fields.optional("at", timestamp).is_none());
        assert!(fields.optional("flag", boolean).is_none());
        assert_eq!(
            faults(fields),
            [
                r#""missing" ["body","name"]"#,
                r#""duplicate" ["body","id"]"#,
                r#""uuid_parsing" ["body","id"]"#,
                r#""timezone_aware" ["body","at"]"#,
                r#""bool_type" ["body","flag"]"#,
                r#""extra_forbidden" ["body","misspelled"]"#,
            ]
        );
    }

    #[test]
    fn a_name_that_nobody_asked_for_is_not_repeated_at_length() {
        for (name, told) in [
            ("x".repeat(64), "x".repeat(64)),
            ("x".repeat(65), "x".repeat(64) + "…"),
            ("ä".repeat(8000), "ä".repeat(64) + "…"),
        ] {
            let fields = Fields::body(format!(r#"{{"{name}":1}}"#).as_bytes());
            let expected = format!(r#""extra_forbidden" ["body","{told}"]"#);
            assert_eq!(faults(fields), [expected]);
        }
    }

    #[test]
    fn null_is_absent_where_a_field_is_optional_and_wrong_where_it_is_not() {
        let mut fields = Fields::body(br#"{"flag":null,"name":null}"#);
        assert!(fields.optional("flag", boolean).is_none());
        assert!(fields.required("name", text(KeyName::parse)).is_none());
        assert_eq!(faults(fields), [r#""string_type" ["body","name"]"#]);
    }

    #[test]
    fn what_is_no_object_is_one_fault() {
        let deep = "[".repeat(100_000);
        let cases = [
            ("", r#""missing" ["body"]"#),
            ("{", r#""json_invalid" ["body"]"#),
            (r#"{"name":"\ud800"}"#, r#""json_invalid" ["body"]"#),
            (r#"{"name":"x"} x"#, r#""json_invalid" ["body"]"#),
            (deep.as_str(), r#""json_invalid" ["body"]"#),
            ("[{}]", r#""object_type" ["body"]"#),
            ("null", r#""object_type" ["body"]"#),
            ("1", r#""object_type" ["body"]"#),
            ("-1", r#""object_type" ["body"]"#),
            ("1e400", r#""json_invalid" ["body"]"#),
            ("1.5", r#""object_type" ["body"]"#),
            ("true", r#""object_type" ["body"]"#),
            (r#""name""#, r#""object_type" ["body"]"#),
        ];
        for (body, fault) in cases {
            let mut fields = Fields::body(body.as_bytes());
            assert!(fields.required("name", text(KeyName::parse)).is_none());
            assert_eq!(faults(fields), [fault], "{body:.20}");
        }
        let mut not_utf8 = Fields::body(b"{\"name\":\"\xff\"}");
        assert!(not_utf8.required("name", text(KeyName::parse)).is_none());
        assert_eq!(faults(not_utf8), [r#""json_invalid" ["body"]"#]);
    }

    #[test]
    fn uuids_are_read_with_hyphens_or_without_and_in_no_other_dress() {
        let good = "6ba7b810-9dad-11d1-80b4-00c04fd430c8";
        for text in [good.to_owned(), good.to_uppercase(), good.replace('-', "")] {
            assert!(uuid(&Value::from(text.as_str())).is_ok(), "{text}");
        }
        for text in [
            format!("{{{good}}}"),
            format!("urn:uuid:{good}"),
            String::new(),
        ] {
            assert!(uuid(&Value::from(text.as_str())).is_err(), "{text}");
        }
    }
}
