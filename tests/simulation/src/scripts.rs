//! What worlds have found, and what happens too rarely in them, step by step.

use std::{collections::BTreeMap, time::Duration};

use lonja_rpc::Names;
use tokio::{task::spawn_local, time};

use crate::{
    history::{Asked, History, Told},
    hosts::{Ran, backends},
    judge,
    peer::{Manner, ask},
    shape::{GATEWAYS, SERVICES, Shape},
    world::{SCRIPT, play_script},
};

const USER: usize = 0;

async fn expect(gateway: usize, number: usize, asked: Asked, status: u8) -> Ran {
    let told = ask(GATEWAYS[gateway], USER, asked, number, Manner::Whole).await?;
    assert_eq!(told, Told::Status(status), "{asked:?}");
    Ok(())
}

/// Has a connected user publish at one gateway. While that gateway's link to the catalog holds the request,
/// `meanwhile` is asked at the other gateway, each with success; then the first peer is told `status`.
async fn publish_while(meanwhile: &[Asked], status: u8) -> Ran {
    expect(0, 0, Asked::Register, 0).await?;
    expect(0, 1, Asked::Connect, 0).await?;
    turmoil::hold(GATEWAYS[0], SERVICES[1]);
    let publishes = spawn_local(expect(0, 2, Asked::Publish(1), status));
    time::sleep(Duration::from_millis(200)).await;
    for (number, asked) in (3..).zip(meanwhile) {
        expect(1, number, *asked, 0).await?;
    }
    turmoil::release(GATEWAYS[0], SERVICES[1]);
    publishes.await?
}

/// Bug (world 1514): a user who was unregistered while a request changed the user's files was told "not
/// connected", which the user never was.
#[test]
fn who_is_unregistered_meanwhile_is_told_so() {
    play_script(async { publish_while(&[Asked::Unregister], 1).await }).unwrap();
}

/// A user who has another session by then publishes in that session.
#[test]
fn who_has_connected_again_meanwhile_publishes() {
    let script = async {
        publish_while(&[Asked::Disconnect, Asked::Connect], 0).await?;
        expect(1, 9, Asked::Publish(1), 3).await
    };
    play_script(script).unwrap();
}

/// A user who leaves while an export reads the user's files is exported as the user is then, not as a connected user
/// whose list has just become empty.
#[test]
fn who_leaves_during_an_export_is_exported_as_at_one_moment() {
    let script = async {
        for (number, asked) in (0..).zip([Asked::Register, Asked::Connect, Asked::Publish(1)]) {
            expect(0, number, asked, 0).await?;
        }
        let (history, services) = (History::default(), backends(Shape::Services, &Names::new(None)?)?);
        turmoil::hold(SCRIPT, SERVICES[1]);
        let exporting = spawn_local({
            let history = history.clone();
            async move { judge::export(&services, &history).await }
        });
        time::sleep(Duration::from_millis(200)).await;
        expect(0, 3, Asked::Disconnect, 0).await?;
        turmoil::release(SCRIPT, SERVICES[1]);
        exporting.await??;
        assert_eq!(history.exports()[0].users, BTreeMap::from([(USER, None)]));
        Ok(())
    };
    play_script(script).unwrap();
}
