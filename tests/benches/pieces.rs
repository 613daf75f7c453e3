//! What the pieces of a verification cost, each by itself: reading a key, comparing its hash, deciding, the whole use case from
//! the cache, and the whole answer without a socket.
//!
//! `cargo bench -p leadr-auth-tests --bench pieces [-- <name>]`. Times are this machine's; `cargo xtask instructions` is what
//! tells whether something became dearer.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a measurement for developers, which a failure ends"
)]

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use actix_web::dev::{AppConfig, Service as _, ServiceFactory as _};
use actix_web::test::TestRequest;
use criterion::{Criterion, criterion_group, criterion_main};
use leadr_auth_app::system::{OsEntropy, SystemClock};
use leadr_auth_domain::{
    Access, Account, AccountId, AccountName, AccountRole, ApiKey, KeyId, KeyName, KeyRecord,
    Keyring, Pepper, PlainKey, Slug, Timestamp, decide, generate_api_key,
};
use leadr_auth_http::{HttpConfig, State, TrustedProxies, app};
use leadr_auth_memory::Memory;
use leadr_auth_service::{Authentication, NewAccount, NewKey, OperatorState, Service};
use tokio::runtime::Runtime;

const MANY: u32 = 100_000;

fn ring() -> Keyring {
    Keyring::from(Pepper::new("a secret for measurements, long enough").unwrap())
}

fn record(ring: &Keyring, key: &PlainKey) -> KeyRecord {
    let now = Timestamp::parse("2026-01-01T00:00:00Z").unwrap();
    let account = Account::new(
        AccountId::from_random_bytes([1; 16]),
        AccountName::parse("Account").unwrap(),
        Slug::parse("account").unwrap(),
        AccountRole::Tenant,
        now,
    );
    let hashed = ring.hash(key);
    let key = ApiKey::new(
        KeyId::from_random_bytes([2; 16]),
        account.id,
        KeyName::parse("Key").unwrap(),
        hashed,
        key.prefix(),
        None,
        now,
    );
    KeyRecord { key, account }
}

fn pure(c: &mut Criterion) {
    let ring = ring();
    let key = generate_api_key([7; 32]);
    let record = record(&ring, &key);
    let digest = record.key.key_hash.digest();
    let now = Timestamp::parse("2026-06-01T00:00:00Z").unwrap();
    c.bench_function("parse", |b| {
        b.iter(|| PlainKey::parse(black_box(key.expose())));
    });
    c.bench_function("hash", |b| {
        b.iter(|| ring.verify_digest(black_box(&key), &record.key.pepper_id, &digest));
    });
    c.bench_function("decide", |b| b.iter(|| decide(black_box(&record), now)));
}

/// A service on a store in memory, with so many keys, which it follows for as long as the runtime lives.
async fn service(keys: u32) -> (Service, Vec<PlainKey>) {
    let service = Service::new(
        Memory::new().stores(),
        Arc::new(SystemClock),
        Arc::new(OsEntropy::new()),
        ring(),
    );
    let OperatorState::Created(operator) = service.prepare(None).await.unwrap() else {
        panic!("the store is not empty");
    };
    let Authentication::Accepted(operator) = service.authenticate(&operator).await.unwrap() else {
        panic!("the operator's key is not good");
    };
    let operator = operator.principal();
    let account = NewAccount {
        name: AccountName::parse("Account").unwrap(),
        slug: Slug::parse("account").unwrap(),
        key_limit: None,
    };
    let access = operator.operator().unwrap();
    let account = service.create_account(&access, account).await.unwrap();
    let mut issued = Vec::new();
    for n in 0..keys {
        let key = NewKey {
            name: KeyName::parse(&format!("Key {n:07}")).unwrap(),
            expires_at: None,
            scopes: None,
        };
        let key = service.issue_key(&operator, account.id, key).await.unwrap();
        issued.push(key.plain_key);
    }
    (service, issued)
}

async fn warm(service: &Service, keys: &[PlainKey]) {
    while service.statistics().cache.lease.is_zero() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    for key in keys {
        service.verify(Access::All, key).await.unwrap();
    }
}

fn verification(c: &mut Criterion) {
    let runtime = Runtime::new().unwrap();
    let (service, keys) = runtime.block_on(service(MANY));
    runtime.spawn(service.clone().run(std::future::pending()));
    runtime.block_on(warm(&service, &keys));
    for (name, count) in [
        ("verify, one hot key", 1),
        ("verify, 100k random keys", MANY),
    ] {
        let mut state = 1_u64;
        c.bench_function(name, |b| {
            b.iter(|| {
                state = state
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1_442_695_040_888_963_407);
                let place = usize::try_from((state >> 33) % u64::from(count)).unwrap();
                runtime.block_on(service.verify(Access::All, &keys[place]))
            });
        });
    }
}

/// Everything but the socket: routes, middleware, credential, verification, and the answer put into words.
fn answers(c: &mut Criterion) {
    let system = actix_web::rt::System::new();
    let (app, key) = system.block_on(async {
        let (service, keys) = service(1).await;
        actix_web::rt::spawn(service.clone().run(std::future::pending()));
        warm(&service, &keys).await;
        let config = HttpConfig {
            body_timeout: Duration::from_secs(5),
            trusted_proxies: TrustedProxies::default(),
            invalid_keys: None,
            instance: 1,
        };
        let app = app(State::new(service, config)).new_service(AppConfig::default());
        let app = app.await.unwrap();
        (app, keys[0].expose().to_owned())
    });
    let body = format!(r#"{{"key":"{key}"}}"#);
    let header = ("leadr-api-key", key.as_str());
    let shapes: [(&str, &dyn Fn() -> TestRequest); 3] = [
        ("answer, livez", &|| TestRequest::get().uri("/livez")),
        ("answer, forward-auth", &|| {
            TestRequest::get()
                .uri("/v1/forward-auth")
                .insert_header(header)
        }),
        ("answer, verify", &|| {
            TestRequest::post()
                .uri("/v1/verify")
                .insert_header(header)
                .insert_header(("content-type", "application/json"))
                .set_payload(body.clone())
        }),
    ];
    for (name, request) in shapes {
        c.bench_function(name, |b| {
            b.iter(|| {
                system.block_on(async {
                    let answer = app.call(request().to_request()).await.unwrap();
                    assert!(answer.status().is_success());
                    actix_web::body::to_bytes(answer.into_body()).await.ok()
                })
            });
        });
    }
}

criterion_group!(pieces, pure, verification, answers);
criterion_main!(pieces);
