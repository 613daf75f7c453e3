//! The API's description, put together from the handlers.

use utoipa::openapi::path::{Operation, PathItem};
use utoipa::openapi::schema::{ObjectBuilder, Type};
use utoipa::openapi::security::{
    ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme,
};
use utoipa::openapi::{
    ContentBuilder, Header, HeaderBuilder, Ref, RefOr, Required, Response, ResponseBuilder,
};
use utoipa::{Modify, OpenApi};

use crate::error::{ErrorBody, ValidationBody};
use crate::routes::{self, ANY, Route, Who};
use crate::{accounts, api_keys, audit, docs, forward_auth, health, me, verify};

/// Every handler that is described. `tests/it/coverage.rs` compares it with the table of routes.
#[derive(OpenApi)]
#[openapi(
    info(
        title = "leadr-auth",
        description = "Issues API keys for accounts and verifies them.\n\nPresent a key as `leadr-api-key: <key>`, \
            `Authorization: Bearer <key>` or `X-API-Key: <key>`: one of them, once.",
    ),
    paths(
        api_keys::create_api_key,
        api_keys::list_api_keys,
        api_keys::get_api_key,
        api_keys::update_api_key,
        me::who_am_i,
        verify::verify_key,
        verify::verify_keys,
        forward_auth::forward_auth,
        forward_auth::ext_authz,
        accounts::create_account,
        accounts::list_accounts,
        accounts::get_account,
        accounts::update_account,
        audit::list_audit,
        health::health,
        health::livez,
        health::readyz,
        health::index,
        docs::openapi_json,
        docs::page,
    ),
    components(schemas(ErrorBody, ValidationBody)),
    tags(
        (name = "API Keys", description = "Issue, list, change and delete keys"),
        (name = "Verification", description = "Ask about the keys that you are presented with"),
        (name = "Accounts", description = "Who owns keys"),
        (name = "Audit", description = "What was changed, by whom, and when"),
        (name = "Service", description = "Health and documentation"),
    ),
    modifiers(&Security, &CommonErrors),
)]
struct ApiDoc;

/// The document, as indented JSON with a line break at its end. What is made of strings, maps and lists can always be
/// written, so there is no error to hand on.
pub fn json() -> String {
    let mut json = ApiDoc::openapi().to_pretty_json().unwrap_or_default();
    json.push('\n');
    json
}

const SCHEMES: [&str; 3] = ["leadr-api-key", "bearer", "x-api-key"];

/// The three ways to present a key.
struct Security;

impl Modify for Security {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        let components = document.components.get_or_insert_default();
        let header = |name: &str| SecurityScheme::ApiKey(ApiKey::Header(ApiKeyValue::new(name)));
        let bearer = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).build();
        components.add_security_scheme("leadr-api-key", header("leadr-api-key"));
        components.add_security_scheme("bearer", SecurityScheme::Http(bearer));
        components.add_security_scheme("x-api-key", header("X-API-Key"));
    }
}

/// The errors that follow from who may call a route, and from its having a body: said once here, not at every handler.
struct CommonErrors;

impl Modify for CommonErrors {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        for (path, item) in &mut document.paths.paths {
            for route in routes::all().filter(|route| route.path == path) {
                let Some(operation) = operation(item, route.method) else {
                    continue;
                };
                describe_malformed(operation);
                if matches!(route.who, Who::Key | Who::Operator) {
                    describe_with_key(operation, route);
                }
            }
        }
    }
}

fn operation<'a>(item: &'a mut PathItem, method: &str) -> Option<&'a mut Operation> {
    match method {
        // Any method is described by the one that is asked for most.
        "GET" | ANY => item.get.as_mut(),
        "POST" => item.post.as_mut(),
        "PATCH" => item.patch.as_mut(),
        _ => None,
    }
}

/// What is answered before anything is asked of the caller.
fn describe_malformed(operation: &mut Operation) {
    let malformed = match operation.request_body {
        Some(_) => "The Host is not one, the body broke off, or its chunks are malformed",
        None => "The Host is not one",
    };
    add_errors(operation, [("400", malformed, "Error")]);
}

fn describe_with_key(operation: &mut Operation, route: &Route) {
    let needs: Vec<_> = route.needs.iter().map(|right| right.as_str()).collect();
    let forbidden = match needs.as_slice() {
        [] => "The key does not allow this".to_owned(),
        needs => format!(
            "The key does not allow this; it needs the scope {}",
            needs.join(" and ")
        ),
    };
    operation.security = Some(
        SCHEMES
            .map(|name| SecurityRequirement::new::<_, _, String>(name, []))
            .into(),
    );
    if let ("PATCH", Some(RefOr::T(body))) = (route.method, &mut operation.request_body) {
        // Where there is no body, nothing is to change.
        body.required = Some(Required::False);
    }
    let mut errors = vec![
        ("401", "No key, or not a valid one", "Error"),
        ("403", forbidden.as_str(), "Error"),
        (
            "422",
            "The request is not well-formed; every fault is listed",
            "HTTPValidationError",
        ),
        (
            "503",
            "Whether the key is valid cannot be told now; try again",
            "Error",
        ),
    ];
    if route.method != ANY {
        // Proxies take it for a failure of this service, so those that they ask answer 401 as ever.
        errors.push((
            "429",
            "Too many invalid keys came from this address",
            "Error",
        ));
    }
    if operation.request_body.is_some() {
        errors.extend([
            ("408", "The body did not arrive in time", "Error"),
            ("413", "The body is larger than 16 KiB", "Error"),
            ("415", "The body is not JSON", "Error"),
        ]);
    }
    add_errors(operation, errors);
}

fn add_errors<'a>(
    operation: &mut Operation,
    errors: impl IntoIterator<Item = (&'a str, &'a str, &'a str)>,
) {
    for (status, description, schema) in errors {
        let error = error(status, description, schema).into();
        operation
            .responses
            .responses
            .entry(status.to_owned())
            .or_insert(error);
    }
}

fn error(status: &str, description: &str, schema: &str) -> Response {
    let content = ContentBuilder::new()
        .schema(Some(Ref::from_schema_name(schema)))
        .build();
    let response = ResponseBuilder::new()
        .description(description)
        .content("application/json", content);
    match status {
        "401" => response.header(
            "WWW-Authenticate",
            header(Type::String, "How to present a key (RFC 6750)"),
        ),
        "429" | "503" => response.header(
            "Retry-After",
            header(Type::Integer, "When to try again, in seconds from now"),
        ),
        _ => response,
    }
    .build()
}

fn header(of: Type, description: &str) -> Header {
    HeaderBuilder::new()
        .schema(Some(ObjectBuilder::new().schema_type(of)))
        .description(Some(description))
        .build()
}
