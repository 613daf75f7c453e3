//! Rows with what the adapter never writes, and SQLite takes from any other program.

use diesel::connection::SimpleConnection as _;
use leadr_auth_domain::{Account, ApiKey, Timestamp, Verdict, decide};
use leadr_auth_ports::{
    KeyFilter, Rows,
    contract::fixtures::{account, at, entry, key, noted},
};

use crate::support::fresh;

/// What is stored, and the timestamp that is nearest to it.
const INSTANTS: [(i64, Timestamp); 2] = [(i64::MAX, Timestamp::MAX), (i64::MIN, Timestamp::MIN)];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_instant_outside_of_all_years_is_read_as_the_nearest_one() {
    let (scratch, stores) = fresh().await;
    let owner = account(1);
    let (foreign, ours) = (key(1, &owner), key(2, &owner));
    stores.accounts.create(&owner, &entry()).await.unwrap();
    for key in [&foreign, &ours] {
        stores.keys.create(key, &entry()).await.unwrap();
    }
    for (written, nearest) in INSTANTS {
        let rows = format!(
            "UPDATE accounts SET created_at = {written}, updated_at = {written}, deleted_at = NULL;
             UPDATE api_keys SET created_at = {written}, updated_at = {written}, last_used_at = {written},
                 expires_at = {written}, deleted_at = NULL
             WHERE key_prefix = '{}'",
            foreign.key_prefix
        );
        scratch.raw().batch_execute(&rows).unwrap();
        let listed = stores.accounts.list().await.unwrap();
        assert_eq!(
            (listed[0].created_at, listed[0].updated_at),
            (nearest, nearest)
        );
        let listed = stores.keys.list(KeyFilter::of(owner.id)).await.unwrap();
        assert_eq!(listed.len(), 2);
        let read = listed.iter().find(|key| key.id == foreign.id).unwrap();
        assert_eq!(
            (read.created_at, read.updated_at, read.last_used_at),
            (nearest, nearest, Some(nearest))
        );
        let found = stores.lookup.find(&foreign.key_prefix).await.unwrap();
        let verdict = if nearest == Timestamp::MIN {
            Verdict::Expired
        } else {
            Verdict::Valid
        };
        assert_eq!(decide(&found.unwrap(), at(9)), verdict);

        // It is compared with what is there, and not with what was read, or no change would ever find it.
        let mut delete = |mut key: ApiKey| {
            key.deleted_at = Some(at(9));
            Ok(noted(key))
        };
        let changed = stores.keys.update(foreign.id, &mut delete).await.unwrap();
        assert_eq!(changed.deleted_at, Some(at(9)));
        let mut delete = |mut account: Account| {
            account.deleted_at = Some(at(9));
            Ok(noted(account))
        };
        let changed = stores.accounts.update(owner.id, &mut delete).await;
        assert_eq!(changed.unwrap().deleted_at, Some(at(9)));

        let rows = format!(
            "UPDATE api_keys SET deleted_at = {written} WHERE deleted_at IS NOT NULL;
             UPDATE accounts SET deleted_at = {written}"
        );
        scratch.raw().batch_execute(&rows).unwrap();
        let found = stores.lookup.find(&foreign.key_prefix).await.unwrap();
        assert_eq!(decide(&found.unwrap(), at(9)), Verdict::Deleted);
        let read = stores.keys.get(foreign.id, Rows::WithDeleted).await;
        assert_eq!(read.unwrap().unwrap().deleted_at, Some(nearest));
        let mut restore = |mut key: ApiKey| {
            key.deleted_at = None;
            Ok(noted(key))
        };
        let changed = stores.keys.update(foreign.id, &mut restore).await.unwrap();
        assert_eq!(changed.deleted_at, None);
        assert!(stores.accounts.list().await.unwrap().is_empty());
    }
}
