//! Rules that every table has to keep.

use leadr_auth_postgres::testing::TestDatabase;

/// The columns of the reference implementation, which no other program fills in for us.
const REFERENCE: [(&str, &[&str]); 2] = [
    (
        "accounts",
        &[
            "id",
            "name",
            "slug",
            "status",
            "created_at",
            "updated_at",
            "deleted_at",
        ],
    ),
    (
        "api_keys",
        &[
            "id",
            "account_id",
            "name",
            "key_hash",
            "key_prefix",
            "status",
            "last_used_at",
            "expires_at",
            "created_at",
            "updated_at",
            "deleted_at",
        ],
    ),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_belongs_to_an_account_goes_with_it() {
    let database = TestDatabase::create().await;
    let rows = database
        .client()
        .await
        .query(
            "SELECT conname::text, confdeltype = 'c' FROM pg_constraint
             WHERE contype = 'f' AND confrelid = 'accounts'::regclass",
            &[],
        )
        .await
        .unwrap();
    assert!(!rows.is_empty());
    for row in rows {
        assert!(
            row.get::<_, bool>(1),
            "{} is not ON DELETE CASCADE",
            row.get::<_, String>(0)
        );
    }
}

/// Both programs can write to one database during a switch.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn columns_of_our_own_need_no_value() {
    let database = TestDatabase::create().await;
    let client = database.client().await;
    let tables: Vec<String> = REFERENCE
        .iter()
        .map(|(table, _)| (*table).to_owned())
        .collect();
    let rows = client
        .query(
            "SELECT table_name::text, column_name::text, is_nullable = 'YES' OR column_default IS NOT NULL
             FROM information_schema.columns WHERE table_name::text = ANY ($1)",
            &[&tables],
        )
        .await
        .unwrap();
    let mut own = 0;
    for row in &rows {
        let (table, column): (String, String) = (row.get(0), row.get(1));
        let known = REFERENCE
            .iter()
            .any(|(name, columns)| *name == table && columns.contains(&column.as_str()));
        if !known {
            own += 1;
            assert!(
                row.get::<_, bool>(2),
                "{table}.{column} has to have a default"
            );
        }
    }
    let reference: usize = REFERENCE.iter().map(|(_, columns)| columns.len()).sum();
    assert_eq!(
        rows.len() - own,
        reference,
        "columns of the reference are missing"
    );
}
