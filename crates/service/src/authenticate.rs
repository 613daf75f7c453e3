//! Who presents this key? For whoever manages keys and accounts: the store is asked each time. For everybody else's keys
//! there is [`crate::verification`].

use std::hint::black_box;

use leadr_auth_domain::{
    Access, ApiKey, KeyDigest, KeyRecord, Keyring, OperatorAccess, PepperId, PlainKey, Principal,
    Verdict, decide,
};

use crate::{Service, StoreError};

/// What came of a presented key.
#[derive(Clone, Debug)]
pub enum Authentication {
    /// It is good; this is who presented it.
    Accepted(Box<Caller>),
    /// It is not. The reason is for those who may hear it; the one who presented the key is told nothing but "no". Never
    /// [`Verdict::Valid`].
    Refused(Verdict),
}

impl Authentication {
    /// The verdict.
    pub(crate) const fn verdict(&self) -> Verdict {
        match self {
            Self::Accepted(_) => Verdict::Valid,
            Self::Refused(verdict) => *verdict,
        }
    }
}

/// Somebody who presented a valid key.
#[derive(Clone, Debug)]
pub struct Caller {
    /// The key and its account, as they were found.
    pub record: KeyRecord,
}

impl Caller {
    /// Whose records the caller may reach.
    pub fn access(&self) -> Access {
        Access::of(&self.record.account)
    }

    /// Who the caller is and what it may do. The request's id and address are for whoever knows them to add.
    pub fn principal(&self) -> Principal {
        Principal::of(&self.record)
    }
}

impl Service {
    /// Looks the key up, compares it, decides, and notes the use of a valid one. The reference calls it
    /// `validate_api_key`.
    ///
    /// One question to the store. The note is kept in memory and written later, so no write stands between the caller and
    /// the answer. An error means that nobody knows whether the key is good.
    pub async fn authenticate(&self, key: &PlainKey) -> Result<Authentication, StoreError> {
        let outcome = self.find_out(key).await;
        self.verifications
            .count(outcome.as_ref().ok().map(Authentication::verdict));
        outcome
    }

    async fn find_out(&self, key: &PlainKey) -> Result<Authentication, StoreError> {
        let looked = self.look_up_record(key).await?;
        let now = self.clock.now();
        // A refusal is not to be known by the time that it takes: what is another's is judged, too, and whatever is refused goes the
        // same way from here on.
        let verdict = match &looked {
            Some((record, is_genuine)) => {
                let verdict = black_box(decide(record, now));
                if *is_genuine {
                    verdict
                } else {
                    Verdict::Unknown
                }
            }
            None => Verdict::Unknown,
        };
        match (verdict, looked) {
            (Verdict::Valid, Some((record, _))) => {
                self.usage.note(record.key.id, now);
                let ApiKey { id, pepper_id, .. } = &record.key;
                self.rehasher
                    .note(&self.keyring(), key, *id, pepper_id, || {
                        record.key.key_hash.clone()
                    });
                Ok(Authentication::Accepted(Box::new(Caller { record })))
            }
            (refusal, _) => Ok(Authentication::Refused(refusal)),
        }
    }

    /// What would become of this key if it were presented now, and its record if it is one of ours. Looking is no use: none
    /// is noted.
    pub async fn inspect_key(
        &self,
        _: &OperatorAccess,
        key: &PlainKey,
    ) -> Result<(Verdict, Option<KeyRecord>), StoreError> {
        let Some((mut record, true)) = self.look_up_record(key).await? else {
            return Ok((Verdict::Unknown, None));
        };
        record.key = self.usage.overlay(record.key);
        Ok((decide(&record, self.clock.now()), Some(record)))
    }

    /// The record under this key's prefix, whatever its state, and whether it is this very key's; `None` where nobody has the prefix.
    async fn look_up_record(
        &self,
        key: &PlainKey,
    ) -> Result<Option<(KeyRecord, bool)>, StoreError> {
        let ring = self.keyring();
        let Some(record) = self.stores.lookup.find(&key.prefix()).await? else {
            // The work of a comparison all the same: time must not tell an unknown prefix from a wrong secret.
            ring.verify_against_nobody(key);
            return Ok(None);
        };
        let ApiKey {
            pepper_id,
            key_hash,
            ..
        } = &record.key;
        let digest = key_hash.digest();
        let is_genuine = self.is_genuine(&ring, key, pepper_id, &digest).await?;
        Ok(Some((record, is_genuine)))
    }

    /// Is the key the one whose hash this is? An error where that cannot be told.
    async fn is_genuine(
        &self,
        ring: &Keyring,
        key: &PlainKey,
        pepper_id: &PepperId,
        digest: &KeyDigest,
    ) -> Result<bool, StoreError> {
        match ring.verify_digest(key, pepper_id, digest) {
            Some(true) => return Ok(true),
            Some(false) => self.may_refuse_hashes()?,
            None => self.may_refuse_keys_under(pepper_id).await?,
        }
        Ok(false)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use leadr_auth_domain::{
        Access, AccountStatus, KeyChange, PepperId, Verdict, generate_api_key,
    };
    use leadr_auth_ports::{MockKeyLookup, StoreError};

    use super::*;
    use crate::testing::{Bench, rotated};

    fn verdict(authentication: &Authentication) -> Verdict {
        match authentication {
            Authentication::Accepted(_) => Verdict::Valid,
            Authentication::Refused(verdict) => *verdict,
        }
    }

    #[tokio::test]
    async fn a_valid_key_tells_who_presents_it_and_notes_the_use() {
        let bench = Bench::new().await;
        let issued = bench.issue("Production").await;
        bench.clock.set(Bench::later(60));
        let accepted = bench.service.authenticate(&issued.plain_key).await.unwrap();
        let Authentication::Accepted(caller) = accepted else {
            panic!("{accepted:?}")
        };
        assert_eq!(caller.record.key.id, issued.key.id);
        assert_eq!(caller.access(), Access::Account(bench.tenant.id));
        let read = bench.service.key(Access::All, issued.key.id).await.unwrap();
        assert_eq!(read.last_used_at, Some(Bench::later(60)));
        assert_eq!(read.updated_at, issued.key.updated_at);
    }

    #[tokio::test]
    async fn looking_at_a_key_is_no_use() {
        let bench = Bench::new().await;
        let issued = bench.issue("Found in a log").await;
        let (access, service) = (&Bench::operator(), &bench.service);
        let (verdict, record) = service
            .inspect_key(access, &issued.plain_key)
            .await
            .unwrap();
        assert_eq!(verdict, Verdict::Valid);
        assert_eq!(record.unwrap().key.last_used_at, None);
        service
            .revoke_key(&Bench::all(), issued.key.id)
            .await
            .unwrap();
        let (verdict, record) = service
            .inspect_key(access, &issued.plain_key)
            .await
            .unwrap();
        assert_eq!((verdict, record.is_some()), (Verdict::Revoked, true));
        let stranger = generate_api_key([77; 32]);
        let (verdict, record) = service.inspect_key(access, &stranger).await.unwrap();
        assert_eq!((verdict, record.is_some()), (Verdict::Unknown, false));
        let read = service.key(Access::All, issued.key.id).await.unwrap();
        assert_eq!(read.last_used_at, None);
    }

    #[tokio::test]
    async fn an_unknown_prefix_and_a_wrong_secret_are_both_unknown() {
        let bench = Bench::new().await;
        let issued = bench.issue("Production").await;
        let stranger = generate_api_key([77; 32]);
        assert_eq!(
            verdict(&bench.service.authenticate(&stranger).await.unwrap()),
            Verdict::Unknown
        );
        // The same prefix with another end: same record, other secret.
        let text = issued.plain_key.expose();
        let (head, _) = text.split_at(20);
        let forged = PlainKey::parse(&format!("{head}{}", "A".repeat(27))).unwrap();
        assert_eq!(forged.prefix(), issued.plain_key.prefix());
        assert_eq!(
            verdict(&bench.service.authenticate(&forged).await.unwrap()),
            Verdict::Unknown
        );
        let read = bench.service.key(Access::All, issued.key.id).await.unwrap();
        assert_eq!(read.last_used_at, None, "a refused key is not used");
    }

    #[tokio::test]
    async fn every_reason_refuses_and_its_end_lets_in_again() {
        let bench = Bench::new().await;
        let issued = bench.issue("Production").await;
        let (service, id) = (&bench.service, issued.key.id);
        let ask = async || verdict(&service.authenticate(&issued.plain_key).await.unwrap());

        service.revoke_key(&Bench::all(), id).await.unwrap();
        assert_eq!(ask().await, Verdict::Revoked);
        service.reactivate_key(&Bench::all(), id).await.unwrap();
        assert_eq!(ask().await, Verdict::Valid);

        service.delete_key(&Bench::all(), id).await.unwrap();
        assert_eq!(ask().await, Verdict::Deleted);
        service.restore_key(&Bench::all(), id).await.unwrap();
        assert_eq!(ask().await, Verdict::Valid);

        service
            .suspend_account(&Bench::operator(), bench.tenant.id)
            .await
            .unwrap();
        assert_eq!(ask().await, Verdict::AccountSuspended);
        let active = service
            .activate_account(&Bench::operator(), bench.tenant.id)
            .await
            .unwrap();
        assert_eq!(active.status, AccountStatus::Active);
        assert_eq!(ask().await, Verdict::Valid);

        service
            .delete_account(&Bench::operator(), bench.tenant.id)
            .await
            .unwrap();
        assert_eq!(ask().await, Verdict::AccountDeleted);
    }

    #[tokio::test]
    async fn a_key_stops_working_at_the_instant_of_its_expiry() {
        let bench = Bench::new().await;
        let issued = bench.issue_expiring("Trial", Some(Bench::later(10))).await;
        bench.clock.set(Bench::later(9));
        let before = bench.service.authenticate(&issued.plain_key).await.unwrap();
        assert_eq!(verdict(&before), Verdict::Valid);
        bench.clock.set(Bench::later(10));
        let after = bench.service.authenticate(&issued.plain_key).await.unwrap();
        assert_eq!(verdict(&after), Verdict::Expired);
    }

    #[tokio::test]
    async fn a_key_that_expired_before_it_was_made_is_made_and_refused() {
        let bench = Bench::new().await;
        let past = leadr_auth_domain::Timestamp::parse("2020-01-01T00:00:00Z").unwrap();
        let issued = bench.issue_expiring("Expired Key", Some(past)).await;
        let refused = bench.service.authenticate(&issued.plain_key).await.unwrap();
        assert_eq!(verdict(&refused), Verdict::Expired);
    }

    #[tokio::test]
    async fn a_store_that_is_away_is_an_error_and_never_a_refusal() {
        let mut bench = Bench::new().await;
        let issued = bench.issue("Production").await;
        let mut away = MockKeyLookup::new();
        away.expect_find()
            .returning(|_| Err(StoreError::unavailable("pulled the plug")));
        bench.service.stores.lookup = Arc::new(away);
        let error = bench
            .service
            .authenticate(&issued.plain_key)
            .await
            .unwrap_err();
        assert!(error.is_retryable());
    }

    #[tokio::test]
    async fn a_renamed_key_still_works() {
        let bench = Bench::new().await;
        let issued = bench.issue("Before").await;
        let name = leadr_auth_domain::KeyName::parse("After").unwrap();
        let change = KeyChange {
            name: Some(name),
            ..KeyChange::default()
        };
        bench
            .service
            .update_key(&Bench::all(), issued.key.id, &change)
            .await
            .unwrap();
        let accepted = bench.service.authenticate(&issued.plain_key).await.unwrap();
        assert_eq!(verdict(&accepted), Verdict::Valid);
    }

    /// Nobody is told that a good key is bad because a process was not given its secret; a secret that was given up is
    /// another matter.
    #[tokio::test]
    async fn a_key_under_a_secret_that_is_not_here_is_refused_only_if_that_was_dropped() {
        let bench = Bench::new().await;
        let old = bench.issue("Old").await;
        bench.service.replace_keyring(rotated()).await.unwrap();
        let new = bench.issue("New").await;
        // As another node that was not given the new secret.
        let behind = crate::testing::service_on(&bench.service, Bench::keyring());
        assert!(behind.ensure_secret().await.is_err());
        let error = behind.authenticate(&new.plain_key).await.unwrap_err();
        assert!(error.is_retryable());

        let default = PepperId::default();
        for key in bench.all_keys().await {
            if key.pepper_id == default {
                bench
                    .service
                    .delete_key(&Bench::all(), key.id)
                    .await
                    .unwrap();
            }
        }
        let operator = Bench::operator();
        bench
            .service
            .drop_pepper(&operator, &default)
            .await
            .unwrap();
        bench
            .service
            .replace_keyring(crate::testing::only_new())
            .await
            .unwrap();
        assert_eq!(
            verdict(&bench.service.authenticate(&old.plain_key).await.unwrap()),
            Verdict::Unknown
        );
        assert_eq!(
            verdict(&bench.service.authenticate(&new.plain_key).await.unwrap()),
            Verdict::Valid
        );
    }
}
