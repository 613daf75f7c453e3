//! The recorder on the memory store, and on one that fails, waits and says what it was asked.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use async_trait::async_trait;
use leadr_auth_domain::Access;
use leadr_auth_ports::KeyUse;

use super::*;
use crate::testing::Bench;
use tokio::time::{advance, sleep};

/// Passes on to another store, counts, fails on demand, and waits at a gate.
struct Watched {
    inner: Arc<dyn UsageStore>,
    calls: AtomicUsize,
    /// What was asked for, in turn.
    asked: Mutex<Vec<Vec<KeyUse>>>,
    failing: AtomicBool,
    /// A key whose row somebody else holds, which is passed over.
    held: Mutex<Option<KeyId>>,
    gate: tokio::sync::Semaphore,
}

impl Watched {
    fn over(bench: &mut Bench, open: usize) -> Arc<Self> {
        let watched = Arc::new(Self {
            inner: Arc::clone(&bench.service.stores.usage),
            calls: AtomicUsize::new(0),
            asked: Mutex::default(),
            failing: AtomicBool::new(false),
            held: Mutex::default(),
            gate: tokio::sync::Semaphore::new(open),
        });
        bench.service.usage = UsageRecorder::new(watched.clone());
        watched
    }

    /// How many keys were named in each call so far.
    fn sizes(&self) -> Vec<usize> {
        self.asked.lock().unwrap().iter().map(Vec::len).collect()
    }

    async fn is_called(&self, times: usize) {
        while self.calls.load(Ordering::SeqCst) < times {
            tokio::task::yield_now().await;
        }
    }
}

#[async_trait]
impl UsageStore for Watched {
    async fn record(&self, uses: &[KeyUse]) -> Result<Vec<KeyId>, StoreError> {
        self.asked.lock().unwrap().push(uses.to_vec());
        self.calls.fetch_add(1, Ordering::SeqCst);
        self.gate.acquire().await.unwrap().forget();
        if self.failing.load(Ordering::SeqCst) {
            return Err(StoreError::unavailable("away"));
        }
        let held = *self.held.lock().unwrap();
        let (held, free): (Vec<_>, Vec<_>) = uses.iter().partition(|it| Some(it.key_id) == held);
        let mut passed_over = self.inner.record(&free).await?;
        passed_over.extend(held.iter().map(|used: &KeyUse| used.key_id));
        Ok(passed_over)
    }
}

async fn stored(bench: &Bench, id: KeyId) -> Option<Timestamp> {
    let rows = leadr_auth_ports::Rows::Live;
    bench
        .service
        .stores
        .keys
        .get(id, rows)
        .await
        .unwrap()
        .unwrap()
        .last_used_at
}

async fn read(bench: &Bench, id: KeyId) -> Option<Timestamp> {
    bench
        .service
        .key(Access::All, id)
        .await
        .unwrap()
        .last_used_at
}

#[tokio::test]
async fn many_uses_are_one_statement_with_the_latest_of_each() {
    let mut bench = Bench::new().await;
    let watched = Watched::over(&mut bench, 10);
    let (one, two) = (
        bench.issue("One").await.key.id,
        bench.issue("Two").await.key.id,
    );
    for second in [5, 9, 7] {
        bench.service.usage.note(one, Bench::later(second));
    }
    bench.service.usage.note(two, Bench::later(3));
    bench.service.usage.flush().await.unwrap();
    bench.service.usage.flush().await.unwrap();
    assert_eq!(
        watched.calls.load(Ordering::SeqCst),
        1,
        "nothing noted, nothing asked"
    );
    assert_eq!(stored(&bench, one).await, Some(Bench::later(9)));
    assert_eq!(stored(&bench, two).await, Some(Bench::later(3)));
}

#[tokio::test]
async fn reads_show_uses_before_during_and_after_the_flush() {
    let mut bench = Bench::new().await;
    let watched = Watched::over(&mut bench, 0);
    let id = bench.issue("Used").await.key.id;
    bench.service.usage.note(id, Bench::later(5));
    assert_eq!(read(&bench, id).await, Some(Bench::later(5)), "before");
    let usage = bench.service.usage.clone();
    let flush = tokio::spawn(async move { usage.flush().await });
    while watched.calls.load(Ordering::SeqCst) == 0 {
        tokio::task::yield_now().await;
    }
    assert_eq!(stored(&bench, id).await, None, "held at the gate");
    assert_eq!(read(&bench, id).await, Some(Bench::later(5)), "during");
    watched.gate.add_permits(1);
    flush.await.unwrap().unwrap();
    assert_eq!(stored(&bench, id).await, Some(Bench::later(5)), "after");
    // Lists and changes show it as well.
    bench.service.usage.note(id, Bench::later(6));
    let own = bench.tenant.id;
    let listed = bench
        .service
        .list_account_keys(Access::All, own, false)
        .await
        .unwrap();
    assert_eq!(listed[0].last_used_at, Some(Bench::later(6)));
    let changed = bench.service.revoke_key(&Bench::all(), id).await.unwrap();
    assert_eq!(changed.last_used_at, Some(Bench::later(6)));
}

#[tokio::test]
async fn what_could_not_be_written_is_kept_for_the_next_time() {
    let mut bench = Bench::new().await;
    let watched = Watched::over(&mut bench, 10);
    let id = bench.issue("Used").await.key.id;
    watched.failing.store(true, Ordering::SeqCst);
    bench.service.usage.note(id, Bench::later(5));
    assert!(bench.service.usage.flush().await.is_err());
    assert_eq!(read(&bench, id).await, Some(Bench::later(5)));
    bench.service.usage.note(id, Bench::later(4));
    watched.failing.store(false, Ordering::SeqCst);
    bench.service.usage.flush().await.unwrap();
    assert_eq!(stored(&bench, id).await, Some(Bench::later(5)));
}

#[tokio::test]
async fn a_flush_that_was_dropped_halfway_is_repeated() {
    let mut bench = Bench::new().await;
    let watched = Watched::over(&mut bench, 0);
    let id = bench.issue("Used").await.key.id;
    bench.service.usage.note(id, Bench::later(5));
    let usage = bench.service.usage.clone();
    let flush = tokio::spawn(async move { usage.flush().await });
    while watched.calls.load(Ordering::SeqCst) == 0 {
        tokio::task::yield_now().await;
    }
    flush.abort();
    let _ = flush.await;
    watched.gate.add_permits(1);
    bench.service.usage.flush().await.unwrap();
    assert_eq!(stored(&bench, id).await, Some(Bench::later(5)));
}

#[tokio::test(start_paused = true)]
async fn it_runs_at_least_every_second_and_once_more_at_the_end() {
    let bench = Bench::new().await;
    let id = bench.issue("Used").await.key.id;
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let running = tokio::spawn(bench.service.usage.clone().run(async {
        let _ = stopped.await;
    }));
    tokio::task::yield_now().await;
    bench.service.usage.note(id, Bench::later(5));
    // Between two ticks, so that it is the end that writes the second use down.
    tokio::time::sleep(Duration::from_millis(1200)).await;
    assert_eq!(stored(&bench, id).await, Some(Bench::later(5)));
    bench.service.usage.note(id, Bench::later(6));
    stop.send(()).unwrap();
    running.await.unwrap();
    assert_eq!(stored(&bench, id).await, Some(Bench::later(6)));
}

#[tokio::test(start_paused = true)]
async fn the_oldest_note_says_how_far_writing_is_behind() {
    let mut bench = Bench::new().await;
    let watched = Watched::over(&mut bench, 10);
    let (one, two) = (
        bench.issue("One").await.key.id,
        bench.issue("Two").await.key.id,
    );
    let usage = bench.service.usage.clone();
    let second = Duration::from_secs(1);
    assert_eq!(usage.statistics(), UsageStatistics::default());
    tokio::time::advance(second).await;
    usage.note(one, Bench::later(5));
    tokio::time::advance(second).await;
    usage.note(two, Bench::later(6));
    let told = bench.service.statistics().usage;
    assert_eq!((told.waiting, told.lag), (2, second));
    // What could not be written is as old as before, and the next note is younger.
    watched.failing.store(true, Ordering::SeqCst);
    assert!(usage.flush().await.is_err());
    usage.note(one, Bench::later(7));
    tokio::time::advance(second).await;
    let told = usage.statistics();
    assert_eq!((told.waiting, told.lag), (2, second * 2));
    assert_eq!((told.flushes, told.failures), (0, 1));
    watched.failing.store(false, Ordering::SeqCst);
    usage.flush().await.unwrap();
    usage.flush().await.unwrap();
    let done = UsageStatistics {
        flushes: 1,
        failures: 1,
        ..UsageStatistics::default()
    };
    assert_eq!(usage.statistics(), done);
    // A note that is on its way is not there yet.
    watched.gate.forget_permits(10);
    usage.note(one, Bench::later(8));
    let flush = tokio::spawn({
        let usage = usage.clone();
        async move { usage.flush().await }
    });
    while watched.calls.load(Ordering::SeqCst) < 3 {
        tokio::task::yield_now().await;
    }
    tokio::time::advance(second).await;
    usage.note(one, Bench::later(9));
    let told = usage.statistics();
    assert_eq!((told.waiting, told.lag), (1, second), "one key");
    watched.gate.add_permits(1);
    flush.await.unwrap().unwrap();
    let told = usage.statistics();
    assert_eq!((told.waiting, told.lag), (1, Duration::ZERO));
}

#[tokio::test(start_paused = true)]
async fn what_is_lost_at_the_end_is_counted() {
    let mut bench = Bench::new().await;
    let watched = Watched::over(&mut bench, 10);
    watched.failing.store(true, Ordering::SeqCst);
    let usage = bench.service.usage.clone();
    for name in ["One", "Two"] {
        usage.note(bench.issue(name).await.key.id, Bench::later(5));
    }
    usage.clone().run(async {}).await;
    assert_eq!(usage.statistics().lost, 2);
}

/// More calls than any test makes.
const OPEN: usize = 100_000;
const SECOND: Duration = Duration::from_secs(1);

/// The `n`th of many keys. The memory store passes over those that it does not have.
fn many(n: u32) -> KeyId {
    // Ids come in no order.
    let mixed = n.wrapping_mul(0x9e37_79b1).to_be_bytes();
    let mut bytes = [0; 16];
    bytes[..4].copy_from_slice(&mixed);
    bytes[12..].copy_from_slice(&n.to_be_bytes());
    KeyId::from_random_bytes(bytes)
}

/// Runs it until the test is over.
fn run(usage: &UsageRecorder) {
    tokio::spawn(usage.clone().run(std::future::pending()));
}

#[tokio::test(start_paused = true)]
async fn the_first_use_is_stored_within_a_second_whenever_it_comes() {
    let mut bench = Bench::new().await;
    let _watched = Watched::over(&mut bench, OPEN);
    run(&bench.service.usage);
    for (wait, name) in [(0, "A"), (1, "B"), (499, "C"), (250, "D"), (7777, "E")] {
        sleep(Duration::from_millis(wait)).await;
        let id = bench.issue(name).await.key.id;
        bench.service.usage.note(id, Bench::later(5));
        sleep(SECOND).await;
        assert_eq!(stored(&bench, id).await, Some(Bench::later(5)), "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_key_that_is_always_in_use_is_written_once_per_resolution() {
    for (resolution, most) in [(None, 11), (Some(30), 21), (Some(0), 601)] {
        let mut bench = Bench::new().await;
        let watched = Watched::over(&mut bench, OPEN);
        if let Some(seconds) = resolution {
            let resolution = Duration::from_secs(seconds);
            bench.service.usage = UsageRecorder::with_resolution(watched.clone(), resolution);
        }
        let id = bench.issue("Used").await.key.id;
        run(&bench.service.usage);
        // Each use is a later one, by what the server's clock says: here that is a second for each tenth.
        for tenth in 0..6000 {
            bench.service.usage.note(id, Bench::later(tenth));
            assert_eq!(read(&bench, id).await, Some(Bench::later(tenth)));
            sleep(SECOND / 10).await;
        }
        let calls = watched.calls.load(Ordering::SeqCst);
        assert!(
            (most - 2..=most).contains(&calls),
            "{resolution:?}: {calls}"
        );
        // What a kill would lose now.
        let seen = stored(&bench, id).await.unwrap();
        let lost = resolution.unwrap_or(60).max(1) * 10 + 5;
        let lost = u32::try_from(lost).unwrap();
        assert!(seen >= Bench::later(6000 - lost), "{seen:?}");
    }
}

/// The longest span that there is does no harm either.
#[tokio::test(start_paused = true)]
async fn with_an_endless_resolution_the_end_writes_what_is_new() {
    let mut bench = Bench::new().await;
    let watched = Watched::over(&mut bench, OPEN);
    let usage = UsageRecorder::with_resolution(watched.clone(), Duration::MAX);
    usage.note(many(1), Bench::later(1));
    usage.write(Scope::Due).await.unwrap();
    usage.note(many(1), Bench::later(2));
    advance(SECOND * 1_000_000).await;
    usage.write(Scope::Due).await.unwrap();
    assert_eq!(watched.sizes(), [1]);
    assert_eq!(usage.statistics().lag, Duration::ZERO);
    usage.flush().await.unwrap();
    assert_eq!(watched.sizes(), [1, 1]);
}

#[tokio::test(start_paused = true)]
async fn a_key_that_is_not_used_again_is_forgotten() {
    let mut bench = Bench::new().await;
    let watched = Watched::over(&mut bench, OPEN);
    let usage = bench.service.usage.clone();
    run(&usage);
    sleep(SECOND / 10).await;
    for n in 0..500 {
        usage.note(many(n), Bench::later(1));
    }
    sleep(SECOND * 30).await;
    assert_eq!((usage.notes.len(), usage.statistics().waiting), (500, 0));
    for n in 0..20 {
        usage.note(many(n), Bench::later(30));
    }
    sleep(SECOND * 31).await;
    assert_eq!(usage.notes.len(), 20, "those that were used again");
    sleep(SECOND * 60).await;
    assert_eq!(usage.notes.len(), 0);
    // It is as one that was never seen.
    usage.note(many(3), Bench::later(200));
    sleep(SECOND).await;
    assert_eq!(watched.sizes(), [500, 20, 1]);
}

#[tokio::test(start_paused = true)]
async fn the_end_writes_what_is_not_due() {
    let mut bench = Bench::new().await;
    let watched = Watched::over(&mut bench, OPEN);
    let usage = bench.service.usage.clone();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let running = tokio::spawn(usage.clone().run(async {
        let _ = stopped.await;
    }));
    for second in 1..=2 {
        for n in 0..100 {
            usage.note(many(n), Bench::later(second));
        }
        sleep(SECOND).await;
    }
    usage.note(many(100), Bench::later(3));
    assert_eq!(
        (watched.sizes(), usage.statistics().waiting),
        (vec![100], 101)
    );
    stop.send(()).unwrap();
    running.await.unwrap();
    // The new one may have been written by the last look of the two seconds already.
    assert_eq!(watched.sizes().iter().sum::<usize>(), 201);
    assert_eq!(usage.statistics().waiting, 0);
    let last = watched.asked.lock().unwrap()[1..].concat();
    assert!(last.iter().all(|used| used.used_at >= Bench::later(2)));
}

#[tokio::test(start_paused = true)]
async fn batches_are_sorted_and_hold_ten_thousand_keys_at_most() {
    let mut bench = Bench::new().await;
    let watched = Watched::over(&mut bench, OPEN);
    let usage = bench.service.usage.clone();
    for n in 0..25_000 {
        usage.note(many(n), Bench::later(n % 7));
    }
    usage.flush().await.unwrap();
    assert_eq!(watched.sizes(), [10_000, 10_000, 5_000]);
    let asked = watched.asked.lock().unwrap().clone();
    for batch in &asked {
        assert!(batch.is_sorted_by(|one, two| one.key_id < two.key_id));
    }
    let mut asked = asked.concat();
    asked.sort_by_key(|used| used.key_id);
    let mut noted: Vec<_> = (0..25_000)
        .map(|n| KeyUse {
            key_id: many(n),
            used_at: Bench::later(n % 7),
        })
        .collect();
    noted.sort_by_key(|used| used.key_id);
    assert_eq!(asked, noted);
    assert_eq!(usage.statistics().flushes, 3);
}

#[tokio::test(start_paused = true)]
async fn a_new_key_waits_for_one_batch_and_not_for_all() {
    let mut bench = Bench::new().await;
    let watched = Watched::over(&mut bench, 0);
    let usage = bench.service.usage.clone();
    for n in 0..30_000 {
        usage.note(many(n), Bench::later(1));
    }
    let flush = tokio::spawn({
        let usage = usage.clone();
        async move { usage.flush().await }
    });
    watched.is_called(1).await;
    let newcomer = many(30_000);
    usage.note(newcomer, Bench::later(1));
    watched.gate.add_permits(OPEN);
    flush.await.unwrap().unwrap();
    assert_eq!(watched.sizes(), [10_000, 10_000, 10_000, 1]);
    let asked = watched.asked.lock().unwrap();
    assert!(asked[1].iter().any(|used| used.key_id == newcomer));
}

/// A flush ends also where there is always somebody new.
#[tokio::test(start_paused = true)]
async fn new_keys_do_not_keep_a_flush_going() {
    let mut bench = Bench::new().await;
    let watched = Watched::over(&mut bench, 0);
    let usage = bench.service.usage.clone();
    usage.note(many(1), Bench::later(1));
    let flush = tokio::spawn({
        let usage = usage.clone();
        async move { usage.flush().await }
    });
    watched.is_called(1).await;
    usage.note(many(2), Bench::later(1));
    watched.gate.add_permits(1);
    flush.await.unwrap().unwrap();
    assert_eq!((watched.sizes(), usage.statistics().waiting), (vec![1], 1));
}

#[tokio::test(start_paused = true)]
async fn one_row_that_is_held_holds_up_no_other() {
    let mut bench = Bench::new().await;
    let watched = Watched::over(&mut bench, OPEN);
    let usage = bench.service.usage.clone();
    for n in 0..25_000 {
        usage.note(many(n), Bench::later(1));
    }
    // Whichever batch it is in, that is not the last.
    let first = usage.notes.take_fresh();
    let one = usage.notes.uses_of(first.iter().take(1).copied());
    *watched.held.lock().unwrap() = Some(one[0].key_id);
    usage.put_ahead(first);
    for sizes in [&[10_000, 10_000, 5_000][..], &[1]] {
        usage.flush().await.unwrap();
        assert_eq!(watched.sizes(), sizes);
        assert_eq!(usage.statistics().waiting, 1);
        watched.asked.lock().unwrap().clear();
    }
    // Others are used meanwhile, and it is used again.
    usage.note(many(25_000), Bench::later(1));
    usage.note(one[0].key_id, Bench::later(2));
    usage.flush().await.unwrap();
    assert_eq!((watched.sizes(), usage.statistics().waiting), (vec![2], 1));
    *watched.held.lock().unwrap() = None;
    usage.flush().await.unwrap();
    assert_eq!(usage.statistics().waiting, 0);
    let asked = watched.asked.lock().unwrap().pop().unwrap();
    assert_eq!(asked[0].used_at, Bench::later(2));
}

/// What ends takes its time for what cannot be written at once; not for ever, and not for what never can be.
#[tokio::test(start_paused = true)]
async fn the_end_waits_for_a_store_that_is_back_soon() {
    for (away, lost) in [(0, 0), (3, 0), (9, 0), (60, 1)] {
        let mut bench = Bench::new().await;
        let watched = Watched::over(&mut bench, OPEN);
        let id = bench.issue("Used").await.key.id;
        for held in [false, true] {
            let before = bench.service.usage.statistics().lost;
            bench
                .service
                .usage
                .note(id, Bench::later(5 + u32::from(held)));
            watched.failing.store(!held, Ordering::SeqCst);
            *watched.held.lock().unwrap() = held.then_some(id);
            let began = tokio::time::Instant::now();
            let ends = tokio::spawn(bench.service.usage.clone().run(async {}));
            sleep(SECOND * away).await;
            watched.failing.store(false, Ordering::SeqCst);
            *watched.held.lock().unwrap() = None;
            ends.await.unwrap();
            assert_eq!(bench.service.usage.statistics().lost - before, lost);
            assert!(lost > 0 || began.elapsed() < SECOND * (away + 1));
            bench.service.usage.flush().await.unwrap();
        }
    }
}

/// Keys that are due again, and were not written, are tried again and shown meanwhile.
#[tokio::test(start_paused = true)]
async fn a_store_that_is_away_for_long_costs_no_use_and_is_told() {
    let mut bench = Bench::new().await;
    let watched = Watched::over(&mut bench, OPEN);
    let id = bench.issue("Used").await.key.id;
    let usage = bench.service.usage.clone();
    run(&usage);
    usage.note(id, Bench::later(0));
    sleep(SECOND * 2).await;
    watched.failing.store(true, Ordering::SeqCst);
    usage.note(id, Bench::later(2));
    sleep(SECOND * 50).await;
    let told = usage.statistics();
    assert_eq!((told.waiting, told.lag), (1, Duration::ZERO), "not due");
    sleep(SECOND * 28).await;
    let told = usage.statistics();
    assert_eq!((told.waiting, told.lag.as_secs()), (1, 20));
    usage.note(id, Bench::later(80));
    assert_eq!(read(&bench, id).await, Some(Bench::later(80)));
    assert_eq!(stored(&bench, id).await, Some(Bench::later(0)));
    watched.failing.store(false, Ordering::SeqCst);
    sleep(SECOND).await;
    assert_eq!(stored(&bench, id).await, Some(Bench::later(80)));
    assert_eq!(usage.statistics().lag, Duration::ZERO);
}

/// Nobody looks yet, and it shows that somebody should.
#[tokio::test(start_paused = true)]
async fn what_is_overdue_shows_before_it_is_taken() {
    let mut bench = Bench::new().await;
    let _watched = Watched::over(&mut bench, OPEN);
    let usage = bench.service.usage.clone();
    for n in 0..2 {
        usage.note(many(n), Bench::later(0));
    }
    usage.flush().await.unwrap();
    usage.note(many(1), Bench::later(1));
    advance(SECOND * 63).await;
    assert_eq!(usage.statistics().lag, SECOND * 3);
}

/// What comes while something is being written is written later.
#[tokio::test(start_paused = true)]
async fn a_use_during_the_flush_waits_for_its_turn() {
    let mut bench = Bench::new().await;
    let watched = Watched::over(&mut bench, 0);
    let id = bench.issue("Used").await.key.id;
    let usage = bench.service.usage.clone();
    usage.note(id, Bench::later(5));
    let flush = tokio::spawn({
        let usage = usage.clone();
        async move { usage.flush().await }
    });
    watched.is_called(1).await;
    usage.note(id, Bench::later(6));
    watched.gate.add_permits(OPEN);
    flush.await.unwrap().unwrap();
    assert_eq!(stored(&bench, id).await, Some(Bench::later(5)));
    assert_eq!(read(&bench, id).await, Some(Bench::later(6)));
    usage.write(Scope::Due).await.unwrap();
    assert_eq!(watched.sizes(), [1]);
    advance(SECOND * 60).await;
    usage.write(Scope::Due).await.unwrap();
    assert_eq!(stored(&bench, id).await, Some(Bench::later(6)));
}

/// Threads that note and a flush that never rests: the last use of each key arrives.
#[tokio::test]
async fn no_use_is_lost_between_threads() {
    let mut bench = Bench::new().await;
    let watched = Watched::over(&mut bench, OPEN);
    let usage = bench.service.usage.clone();
    let mut threads = Vec::new();
    for thread in 0..4 {
        let usage = usage.clone();
        threads.push(tokio::task::spawn_blocking(move || {
            for second in 0..200 {
                for n in 0..100 {
                    usage.note(many(n), Bench::later(second * 4 + thread));
                }
            }
        }));
    }
    while threads.iter().any(|thread| !thread.is_finished()) {
        usage.flush().await.unwrap();
    }
    usage.flush().await.unwrap();
    let mut last: Vec<KeyUse> = watched.asked.lock().unwrap().concat();
    last.retain(|used| used.used_at == Bench::later(799));
    assert_eq!(last.len(), 100);
    assert_eq!((usage.notes.len(), usage.statistics().waiting), (100, 0));
}

/// Where a note was says nothing any more once its key was forgotten: another key's is there then, or none.
#[tokio::test(start_paused = true)]
async fn a_use_is_never_noted_for_the_key_that_came_into_the_place() {
    let mut bench = Bench::new().await;
    let _watched = Watched::over(&mut bench, OPEN);
    let usage = UsageRecorder::with_resolution(Arc::clone(&bench.service.stores.usage), SECOND);
    let settle = async || {
        usage.write(Scope::Due).await.unwrap();
        advance(SECOND).await;
        usage.write(Scope::Due).await.unwrap();
    };
    let keys: Vec<_> = (0..500).map(|n| (many(n), NoteHint::default())).collect();
    let (old, young) = keys.split_at(250);
    for (id, hint) in old {
        usage.note_by(*id, Bench::later(1), hint);
    }
    settle().await;
    assert_eq!(usage.notes.len(), 0, "all are forgotten");
    // The same places, in another order, and then both by their hints.
    for (id, hint) in young {
        usage.note_by(*id, Bench::later(2), hint);
    }
    for round in 3..5 {
        for (id, hint) in &keys {
            usage.note_by(*id, Bench::later(round), hint);
            assert_eq!(usage.notes.pending(*id), Some(Bench::later(round)));
        }
    }
    assert_eq!(usage.notes.len(), keys.len());
    assert_eq!(usage.statistics().waiting, keys.len());
    for (id, _) in &keys {
        assert_eq!(usage.notes.pending(*id), Some(Bench::later(4)));
    }
    // Some are used on, and those in between are forgotten: their places are taken by others.
    usage.write(Scope::Due).await.unwrap();
    for (id, hint) in keys.iter().step_by(2) {
        usage.note_by(*id, Bench::later(5), hint);
    }
    advance(SECOND).await;
    usage.write(Scope::Due).await.unwrap();
    assert_eq!(usage.notes.len(), keys.len() / 2);
    for n in 1000..1250 {
        usage.note(many(n), Bench::later(6));
    }
    for (id, hint) in &keys {
        usage.note_by(*id, Bench::later(7), hint);
    }
    for n in 1000..1250 {
        assert_eq!(usage.notes.pending(many(n)), Some(Bench::later(6)));
    }
    assert_eq!(usage.notes.len(), keys.len() + 250);
}
