//! A data provider whose answers are timed and counted. It changes nothing.

use std::future::Future;
use std::sync::Arc;

use async_trait::async_trait;
use tokio::time::Instant;

use crate::metrics::{StoreCall, StorePool};
use crate::{
    Metrics, Page, StoreError, UnixMillis, UsageDelta, UsedQuota, User, UserPage, UserQuery, UserStore,
};

/// Passes every call on to another provider.
pub struct MeasuredStore {
    inner: Arc<dyn UserStore>,
    metrics: Metrics,
}

impl MeasuredStore {
    /// Measures `inner`.
    pub fn new(inner: Arc<dyn UserStore>, metrics: Metrics) -> Self {
        Self { inner, metrics }
    }

    async fn timed<T>(
        &self,
        call: StoreCall,
        answer: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        let asked = Instant::now();
        let answer = answer.await;
        self.metrics.store_answered(call, asked.elapsed(), &answer);
        answer
    }
}

#[async_trait]
impl UserStore for MeasuredStore {
    async fn user(&self, name: &str) -> Result<User, StoreError> {
        self.timed(StoreCall::Lookup, self.inner.user(name)).await
    }

    async fn user_by_id(&self, id: i64) -> Result<User, StoreError> {
        self.timed(StoreCall::Lookup, self.inner.user_by_id(id)).await
    }

    async fn users(&self, page: &Page) -> Result<Vec<User>, StoreError> {
        self.timed(StoreCall::List, self.inner.users(page)).await
    }

    async fn search(&self, query: &UserQuery) -> Result<UserPage, StoreError> {
        self.timed(StoreCall::List, self.inner.search(query)).await
    }

    async fn users_by_name(&self, names: &[String]) -> Result<Vec<User>, StoreError> {
        self.timed(StoreCall::List, self.inner.users_by_name(names)).await
    }

    async fn all_users(&self) -> Result<Vec<User>, StoreError> {
        self.timed(StoreCall::List, self.inner.all_users()).await
    }

    async fn insert(&self, user: &User) -> Result<i64, StoreError> {
        self.timed(StoreCall::Write, self.inner.insert(user)).await
    }

    async fn update(&self, user: &User) -> Result<(), StoreError> {
        self.timed(StoreCall::Write, self.inner.update(user)).await
    }

    async fn delete(&self, id: i64) -> Result<(), StoreError> {
        self.timed(StoreCall::Write, self.inner.delete(id)).await
    }

    async fn usage(&self, name: &str) -> Result<UsedQuota, StoreError> {
        self.timed(StoreCall::Lookup, self.inner.usage(name)).await
    }

    async fn add_usage(&self, name: &str, delta: UsageDelta, at: UnixMillis) -> Result<(), StoreError> {
        self.timed(StoreCall::Write, self.inner.add_usage(name, delta, at)).await
    }

    async fn set_usage(&self, name: &str, used: UsedQuota, at: UnixMillis) -> Result<(), StoreError> {
        self.timed(StoreCall::Write, self.inner.set_usage(name, used, at)).await
    }

    async fn record_login(&self, name: &str, at: UnixMillis) -> Result<(), StoreError> {
        self.timed(StoreCall::Write, self.inner.record_login(name, at)).await
    }

    async fn ping(&self) -> Result<(), StoreError> {
        self.timed(StoreCall::Ping, self.inner.ping()).await
    }

    fn pool(&self) -> StorePool {
        self.inner.pool()
    }

    async fn close(&self) {
        self.inner.close().await;
    }
}
