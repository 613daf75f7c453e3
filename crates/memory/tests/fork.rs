//! A fork holds what its store held, and neither sees what becomes of the other.

use leadr_auth_memory::Memory;
use leadr_auth_ports::contract::fixtures::{account, entry};
use leadr_auth_ports::{Rows, Stores};

async fn holds(stores: &Stores, n: u8) -> bool {
    let found = stores.accounts.get(account(n).id, Rows::Live).await;
    found.is_ok_and(|found| found.is_some())
}

async fn create(stores: &Stores, n: u8) {
    let created = stores.accounts.create(&account(n), &entry()).await;
    assert!(created.is_ok(), "{n}");
}

#[tokio::test]
async fn a_fork_goes_its_own_way() {
    let store = Memory::new();
    create(&store.stores(), 1).await;
    let fork = store.fork();
    create(&store.stores(), 2).await;
    create(&fork.stores(), 3).await;
    for (store, others) in [(store, [true, true, false]), (fork, [true, false, true])] {
        let stores = store.stores();
        let held = [
            holds(&stores, 1).await,
            holds(&stores, 2).await,
            holds(&stores, 3).await,
        ];
        assert_eq!(held, others);
    }
}
