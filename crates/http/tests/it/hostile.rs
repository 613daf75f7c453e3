//! Every place of every request that takes a text, given texts that mean harm: control characters, those that set the direction
//! of text, half a surrogate pair, and what is only long or strange.
//!
//! The places are read off the API's description, so that a new one is tried without being named here.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use actix_web::http::header::HeaderValue;
use actix_web::test::TestRequest;
use leadr_auth_domain::text::is_control;
use serde_json::{Map, Value, json};

use crate::matrix::{everything, trail};
use crate::support::{Answer, Api};

/// Stands in a request for the text, until that is put there.
const HERE: &str = "@here@";

/// A text.
struct Text {
    name: String,
    /// In UTF-8; a lone surrogate as UTF-8 would have it if it allowed that.
    bytes: Vec<u8>,
    /// Inside of a JSON string.
    json: String,
    /// No name may hold it.
    harmful: bool,
}

impl Text {
    fn of(name: &str, text: &str) -> Self {
        Self {
            name: name.to_owned(),
            bytes: text.as_bytes().to_vec(),
            json: text.encode_utf16().fold(String::new(), |mut json, unit| {
                let _ = write!(json, "\\u{unit:04x}");
                json
            }),
            harmful: text.chars().any(is_control),
        }
    }

    fn surrogate(name: &str, bytes: &[u8], json: &str) -> Self {
        Self {
            name: name.to_owned(),
            bytes: bytes.to_vec(),
            json: json.to_owned(),
            harmful: true,
        }
    }

    fn as_str(&self) -> &str {
        std::str::from_utf8(&self.bytes).unwrap()
    }
}

fn texts() -> Vec<Text> {
    let controls = ['\0', '\u{1}', '\t', '\n', '\r', '\u{1b}', '\u{7f}']
        .into_iter()
        .chain(['\u{80}', '\u{85}', '\u{9b}', '\u{9f}'])
        .chain("\u{61c}\u{200e}\u{200f}\u{2028}\u{2029}".chars())
        .chain('\u{202a}'..='\u{202e}')
        .chain('\u{2066}'..='\u{2069}');
    let controls = controls.map(|c| {
        let name = format!("U+{:04X}", u32::from(c));
        // Also at an end, where it would be trimmed away as space.
        let text = format!("key {c}");
        Text::of(&name, &text)
    });
    let surrogates = [
        Text::surrogate("high surrogate", b"key \xed\xa0\x80", r"key \ud800"),
        Text::surrogate("low surrogate", b"key \xed\xb0\x80", r"key \udc00"),
        Text::surrogate(
            "surrogates the wrong way round",
            b"key \xed\xb0\x80\xed\xa0\x80",
            r"key \udc00\ud800",
        ),
    ];
    let strange = [
        Text::of("four bytes", "key 🔑𝔘𠜎"),
        Text::of("a family of many", "👩‍👩‍👧‍👦"),
        Text::of(
            "a combining run",
            &format!("Z{}", "\u{301}\u{334}".repeat(49)),
        ),
        Text::of("right to left", "مفتاح מפתח"),
        Text::of("decomposed", "Schlu\u{308}ssel"),
        Text::of("a replacement character", "key \u{fffd}"),
        Text::of("the last of all characters", "key \u{10ffff}"),
        Text::of("SQL", "'; DROP TABLE api_keys; --"),
        Text::of("a script", "<script>alert(1)</script>"),
        Text::of("a formula", "=cmd|' /C calc'!A0"),
        Text::of("a template", "{{7*7}}${7*7}%s%n"),
        Text::of("a path", "../../etc/passwd"),
        Text::of("a wildcard", "%_*\\"),
    ];
    let long = [300, 2_000].map(|length| Text {
        // Not harmful in itself; nothing that takes a text takes one of this length.
        harmful: true,
        ..Text::of(&format!("{length} characters"), &"x".repeat(length))
    });
    controls
        .chain(surrogates)
        .chain(strange)
        .chain(long)
        .collect()
}

/// Where in a request the text goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Body,
    Query,
    Path,
    Header,
}

/// A place, and a request that has [`HERE`] in it.
#[derive(Clone, Debug)]
struct Place {
    method: String,
    path: String,
    part: Part,
    /// What the API calls it.
    field: String,
    body: Option<Value>,
}

impl Place {
    fn name(&self) -> String {
        let Self {
            method,
            path,
            part,
            field,
            ..
        } = self;
        format!("{method} {path}, {part:?} {field}")
    }

    /// Is it for any text that a person may write?
    fn is_free(&self) -> bool {
        let is_name = self.field == "name" && !self.path.starts_with("/v1/verify");
        is_name || self.field == "name_contains"
    }

    /// Does it take a key that is to be verified? Whatever that is, it is no key, and to say so is the answer.
    fn is_presented(&self) -> bool {
        self.field == "key" || self.field == "keys.0.key"
    }

    /// `None` where no request can have this text there.
    fn request(&self, text: &Text, own: &Own<'_>) -> Option<TestRequest> {
        let encoded = || {
            text.bytes.iter().fold(String::new(), |mut encoded, byte| {
                let _ = write!(encoded, "%{byte:02X}");
                encoded
            })
        };
        let ids = |path: &str| {
            path.replace("{key_id}", &own.api.one.key_id)
                .replace("{account_id}", &own.api.one.account)
        };
        let path = match self.part {
            Part::Body | Part::Header => ids(&self.path),
            Part::Query => {
                let path = ids(&self.path);
                let account = match self.path.as_str() {
                    // An operator has to say whose keys it means.
                    "/v1/api-keys" if self.field != "account_id" => {
                        format!("account_id={}&", own.api.one.account)
                    }
                    _ => String::new(),
                };
                format!("{path}?{account}{}={}", self.field, encoded())
            }
            Part::Path => {
                let this = format!("{{{}}}", self.field);
                ids(&self.path.replace(&this, &encoded()))
            }
        };
        let mut request = Api::request(&self.method, &path, Some(&own.api.operator));
        if self.part == Part::Header {
            let value = HeaderValue::from_bytes(&text.bytes).ok()?;
            request = request.insert_header((self.field.as_str(), value));
        }
        if let Some(body) = &self.body {
            let body = body.to_string();
            let body = body.replace("@account@", &own.api.one.account);
            let body = body.replace("@fresh@", &format!("fresh-{}", own.number));
            let body = body.replace(&format!("\"{HERE}\""), &format!("\"{}\"", text.json));
            request = request
                .insert_header(("content-type", "application/json"))
                .set_payload(body);
        }
        Some(request)
    }
}

/// What a request is filled in from.
struct Own<'a> {
    api: &'a Api,
    number: usize,
}

/// A body that is good, but for what is tried in it.
fn good_body(method: &str, path: &str) -> Option<Value> {
    match (method, path) {
        ("POST", "/v1/accounts") => Some(json!({"name": "Fresh @fresh@", "slug": "@fresh@"})),
        ("POST", "/v1/api-keys") => Some(json!({"name": "Fresh", "account_id": "@account@"})),
        ("POST", "/v1/verify") => Some(json!({"key": "ldr_no"})),
        ("POST", "/v1/verify/batch") => Some(json!({"keys": [{"key": "ldr_no"}]})),
        ("PATCH", _) => Some(json!({})),
        ("GET", _) => None,
        _ => panic!("no good body for {method} {path}"),
    }
}

/// The places of a body that take a text, each with a text in it: the field's name with dots, as faults say it, and the value
/// of its outermost field.
fn texts_of(document: &Value, schema: &Value, within: &str) -> Vec<(String, Value)> {
    let schema = match schema["$ref"].as_str() {
        Some(reference) => document.pointer(reference.trim_start_matches('#')).unwrap(),
        None => schema,
    };
    let is = |kind: &str| match &schema["type"] {
        Value::String(one) => one == kind,
        Value::Array(several) => several.contains(&json!(kind)),
        _ => false,
    };
    if let Some(alternatives) = schema["oneOf"].as_array() {
        return alternatives
            .iter()
            .flat_map(|schema| texts_of(document, schema, within))
            .collect();
    }
    if is("string") {
        return vec![(within.to_owned(), json!(HERE))];
    }
    if is("array") {
        let within = format!("{within}.0");
        return texts_of(document, &schema["items"], &within)
            .into_iter()
            .map(|(name, value)| (name, json!([value])))
            .collect();
    }
    let Some(properties) = schema["properties"].as_object() else {
        return Vec::new();
    };
    let required: Vec<_> = schema["required"]
        .as_array()
        .into_iter()
        .flatten()
        .collect();
    properties
        .iter()
        .flat_map(|(name, property)| {
            let path = format!("{within}.{name}");
            let path = path.trim_start_matches('.').to_owned();
            texts_of(document, property, &path)
                .into_iter()
                .map(|(path, value)| {
                    let mut object = Map::new();
                    // Inside of a list the fields beside it are needed as well.
                    for other in required.iter().filter(|_| !within.is_empty()) {
                        object.insert(other.as_str().unwrap().to_owned(), json!("ldr_no"));
                    }
                    object.insert(name.clone(), value);
                    (path, Value::Object(object))
                })
                .collect::<Vec<_>>()
        })
        .collect()
}

fn places() -> Vec<Place> {
    let document: Value = serde_json::from_str(&leadr_auth_http::openapi::json()).unwrap();
    let mut places = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let method = method.to_uppercase();
            let place = |part, field: &str, body| Place {
                method: method.clone(),
                path: path.clone(),
                part,
                field: field.to_owned(),
                body,
            };
            for parameter in operation["parameters"].as_array().into_iter().flatten() {
                let part = match parameter["in"].as_str().unwrap() {
                    "query" => Part::Query,
                    "path" => Part::Path,
                    "header" => Part::Header,
                    other => panic!("a parameter in {other}"),
                };
                let body = good_body(&method, path);
                places.push(place(part, parameter["name"].as_str().unwrap(), body));
            }
            let schema = &operation["requestBody"]["content"]["application/json"]["schema"];
            for (field, value) in texts_of(&document, schema, "") {
                let mut body = good_body(&method, path).unwrap();
                let given = value.as_object().unwrap().clone();
                body.as_object_mut().unwrap().extend(given);
                places.push(place(Part::Body, &field, Some(body)));
            }
        }
    }
    places
}

/// What a refusal has to say: what is wrong, and where.
fn check_refusal(place: &Place, text: &Text, answer: &Answer) {
    let name = format!("{}, {}: {}", place.name(), text.name, answer.text);
    assert!((400..500).contains(&answer.status), "{name}");
    assert_eq!(answer.status, 422, "{name}");
    let faults = answer.faults();
    let at = match place.part {
        Part::Body => format!("body.{}", place.field),
        Part::Query => format!("query.{}", place.field),
        Part::Path => format!("path.{}", place.field),
        Part::Header => format!("header.{}", place.field),
    };
    let [fault] = faults.as_slice() else {
        panic!("{name}");
    };
    let (kind, said) = fault.split_once(' ').unwrap();
    // What is no Unicode at all is no JSON and no query, and where that is, the parser does not say.
    let unreadable = std::str::from_utf8(&text.bytes).is_err()
        && (kind == "json_invalid" || said == "query" || place.part == Part::Query);
    assert!(said == at || unreadable, "{name}");
    // It does not say again what was sent.
    let echoed = text.harmful && answer.text.chars().any(is_control);
    assert!(!echoed, "{name}");
}

#[actix_web::test]
async fn a_text_that_means_harm_is_refused_wherever_it_is_and_changes_nothing() {
    let api = Api::new().await;
    let places = places();
    let mut tried: BTreeMap<String, u32> = BTreeMap::new();
    let mut before = (everything(&api).await, trail(&api).await);
    for (number, text) in texts().iter().enumerate() {
        for place in &places {
            let own = Own { api: &api, number };
            let Some(request) = place.request(text, &own) else {
                continue;
            };
            *tried.entry(place.name()).or_default() += 1;
            let answer = api.send(request).await;
            let name = || format!("{}, {}: {}", place.name(), text.name, answer.text);
            if (200..300).contains(&answer.status) {
                if place.is_presented() {
                    assert!(answer.text.contains("\"malformed\""), "{}", name());
                    continue;
                }
                assert!(!text.harmful, "{}", name());
                assert!(place.is_free() || place.part == Part::Header, "{}", name());
                if place.field == "name" {
                    assert_eq!(answer.json()["name"], text.as_str(), "{}", name());
                }
                if answer.status == 201 && place.path == "/v1/accounts" {
                    // The next one may have its name.
                    let path = format!("/v1/accounts/{}", answer.json()["id"].as_str().unwrap());
                    let deleted = api.patch(&path, &api.operator, json!({"deleted": true}));
                    deleted.await.expect(200);
                }
                before = (everything(&api).await, trail(&api).await);
                continue;
            }
            // Any word is a name for a request, once.
            if place.part == Part::Header && answer.status == 409 && !text.harmful {
                continue;
            }
            check_refusal(place, text, &answer);
            let taken = text.harmful || !place.is_free();
            assert!(taken, "a good text was refused: {}", name());
            let after = (everything(&api).await, trail(&api).await);
            assert_eq!(before, after, "{}", name());
        }
    }
    assert!(tried.len() >= 40, "{tried:#?}");
}
