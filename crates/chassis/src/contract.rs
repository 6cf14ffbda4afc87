//! The contract: one suite of tests that every store of a service has to pass.

/// Makes a test of each rule of a contract. A rule is an async function in `store::contract` of the
/// service's crate that takes a store. `$open` gives a new store and whatever keeps the store
/// alive. The crate needs tokio with `macros` and `rt-multi-thread`.
#[allow(clippy::crate_in_macro_def, reason = "the contract is that of the crate which calls this")]
#[macro_export]
macro_rules! contract_suite {
    ($open:expr; $($rule:ident,)*) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $rule() {
                let (store, _keep) = ($open)();
                crate::store::contract::$rule(store).await;
            }
        )*
    };
}
