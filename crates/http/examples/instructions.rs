//! Verifies a key over and over, for `cargo xtask instructions` to count what the processor is told to do.
//!
//! `instructions forward-auth|verify|in-process|livez <how often>`: the whole application without a socket, on a store in memory, with the
//! key in the cache. What it costs to get there is in every run, so that the difference of two runs is the requests' alone.
//!
//! `instructions refused|managed-unknown|wrong-secret|revoked|expired <how often>`: the same with a key that is refused for this reason, by
//! the cache or by the store that a route which manages keys asks. All of these are answered alike.
//!
//! `instructions asked-unknown|wrong-secret|others <how often>`: a tenant asks about a key that is not the tenant's to know about.

use std::error::Error;
use std::time::Duration;

use actix_web::App;
use actix_web::body::{BoxBody, to_bytes};
use actix_web::dev::{AppConfig, Response, Service as _, ServiceFactory as _};
use actix_web::http::{StatusCode, header};
use actix_web::test::{TestRequest, init_service};
use leadr_auth_domain::{
    Access, AccountId, AccountName, KeyName, Origin, PlainKey, Principal, Scope, ScopeSet, Slug,
    Timestamp, generate_api_key,
};
use leadr_auth_http::{HttpConfig, State, TrustedProxies, app};
use leadr_auth_service::{NewAccount, NewKey, Service};
use tokio::sync::oneshot;

#[path = "protect_a_route.rs"]
mod protect_a_route;

#[actix_web::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [shape, count] = arguments.as_slice() else {
        return Err("instructions forward-auth|verify|in-process|livez <how often>".into());
    };
    let count: u32 = count.parse()?;
    let service = protect_a_route::service()?;
    let good = protect_a_route::first_key(&service, &SCOPES).await?;
    let (route, reason) = shape.split_once('-').unwrap_or((shape, ""));
    let is_refused = matches!(route, "refused" | "managed");
    let key = if is_refused || route == "asked" {
        refused_key(&service, &good, reason).await?
    } else {
        good.clone()
    };
    let (stop, stopped) = oneshot::channel::<()>();
    let background = actix_web::rt::spawn(service.clone().run(async {
        let _ = stopped.await;
    }));
    let config = HttpConfig {
        body_timeout: Duration::from_secs(5),
        trusted_proxies: TrustedProxies::default(),
        invalid_keys: None,
        instance: 1,
    };
    let state = State::new(service.clone(), config);
    let app = app(state).new_service(AppConfig::default()).await;
    let app = app.map_err(|()| "the service does not start")?;
    let embedding = App::new().configure(protect_a_route::routes(service.clone()));
    let embedding = init_service(embedding).await;
    // The first tick comes back, and the cache may answer.
    while service.statistics().cache.lease.is_zero() {
        actix_web::rt::time::sleep(Duration::from_millis(20)).await;
    }
    let body = format!(r#"{{"key":"{}"}}"#, key.expose());
    for n in 0..count {
        if n % 50 == 0 {
            // No request waits for anything, and the task that keeps the cache's lease would never come to run.
            tokio::task::yield_now().await;
        }
        let request = match shape.as_str() {
            "forward-auth" => TestRequest::get()
                .uri("/v1/forward-auth")
                .insert_header(("leadr-api-key", key.expose())),
            _ if matches!(route, "verify" | "asked") => TestRequest::post()
                .uri("/v1/verify")
                .insert_header(("leadr-api-key", good.expose()))
                .insert_header((header::CONTENT_TYPE, "application/json"))
                .set_payload(body.clone()),
            _ if is_refused => {
                let path = match route {
                    "managed" => "/v1/api-keys",
                    _ => "/v1/forward-auth",
                };
                TestRequest::get()
                    .uri(path)
                    .insert_header(("leadr-api-key", key.expose()))
            }
            "in-process" => TestRequest::get()
                .uri("/docs")
                .insert_header(("leadr-api-key", key.expose())),
            _ => TestRequest::get().uri("/livez"),
        };
        let answer: Response<BoxBody> = if shape == "in-process" {
            let answer = embedding.call(request.to_request()).await?;
            answer.map_into_boxed_body().into()
        } else {
            app.call(request.to_request()).await?.map_into_boxed_body()
        };
        let is_expected = if is_refused {
            answer.status() == StatusCode::UNAUTHORIZED
        } else {
            answer.status().is_success()
        };
        if !is_expected {
            return Err(format!("the answer was {}", answer.status()).into());
        }
        // What is sent is made when it is asked for.
        to_bytes(answer.into_body())
            .await
            .map_err(|_| "the answer has no end")?;
    }
    drop(stop);
    background.await?;
    Ok(())
}

const SCOPES: [&str; 2] = ["keys:verify", "docs:read"];

/// A key that is refused for a reason. What is read for it is one and the same record, but for that reason.
async fn refused_key(
    service: &Service,
    good: &PlainKey,
    reason: &str,
) -> Result<PlainKey, Box<dyn Error>> {
    let by = Principal::deployment(Origin::TOOL);
    let owner = if reason == "others" {
        another_account(service, &by).await?
    } else {
        let good = service.key_by_prefix(Access::All, &good.prefix()).await?;
        good.account_id
    };
    let scopes: Result<Vec<_>, _> = SCOPES.iter().map(|scope| Scope::parse(scope)).collect();
    let new = NewKey {
        name: KeyName::parse("Refused")?,
        expires_at: match reason {
            "expired" => Some(Timestamp::parse("2020-01-01T00:00:00Z")?),
            _ => None,
        },
        scopes: Some(ScopeSet::new(scopes?)?),
    };
    // There is nothing before one with this at its end.
    let issued = loop {
        let issued = service.issue_key(&by, owner, new.clone()).await?;
        if !issued.key.key_prefix.as_str().ends_with('-') {
            break issued;
        }
    };
    if reason == "revoked" {
        service.revoke_key(&by, issued.key.id).await?;
    }
    let prefix = issued.plain_key.prefix();
    let (known, other) = (prefix.as_str(), generate_api_key([7; 32]));
    let end: String = other.expose().chars().skip(known.len()).collect();
    let key = match reason {
        "wrong-secret" => format!("{known}{end}"),
        // Just before the one that there is, which is the one that a store comes upon.
        "unknown" => {
            let begin: String = known.chars().take(known.len().saturating_sub(1)).collect();
            format!("{begin}-{end}")
        }
        _ => return Ok(issued.plain_key),
    };
    Ok(PlainKey::parse(&key)?)
}

async fn another_account(service: &Service, by: &Principal) -> Result<AccountId, Box<dyn Error>> {
    let access = by.operator().ok_or("an operator is none")?;
    let account = NewAccount {
        name: AccountName::parse("Others")?,
        slug: Slug::parse("others")?,
        key_limit: None,
    };
    Ok(service.create_account(&access, account).await?.id)
}
