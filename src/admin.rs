//! `lonja admin`: an operator looks at every user, and changes one, through the console of a running index.

use std::io::{self, BufWriter, Write as _};

use anyhow::bail;
use clap::Subcommand;
use jiff::Timestamp;
use lonja_proto::admin::{
    FreeUserRequest, KickUserRequest, ListUsersRequest, RemoveUserRequest, User,
    admin_service_client::AdminServiceClient,
};
use lonja_wire::Printable;
use serde_json::json;
use tonic::{Code, Status};

use crate::{audit::is_closed_pipe, console_client::ConsoleUrl};

/// Settings of `lonja admin`.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Config {
    #[command(flatten)]
    console: ConsoleUrl,
    /// The token for operators
    #[arg(long, env = "LONJA_ADMIN_TOKEN", value_name = "TOKEN", hide_env_values = true, global = true)]
    token: Option<String>,
    /// Your name in the audit; if not given, the name of the user who runs this ($USER, $LOGNAME or the number)
    #[arg(long = "as", value_name = "NAME", global = true)]
    operator: Option<String>,
    #[command(subcommand)]
    order: Order,
}

#[derive(Debug, Clone, Subcommand)]
enum Order {
    /// Print every user: to which address the user belongs, where the user is connected and since when
    Users {
        /// Print a JSON object for each user
        #[arg(long)]
        json: bool,
    },
    /// Print the users who are connected, in the order in which they connected
    Sessions {
        /// Print a JSON object for each user
        #[arg(long)]
        json: bool,
    },
    /// Disconnect a user
    Kick { user: String },
    /// Let any address connect a user who belongs to an address (--own-names registered)
    Free { user: String },
    /// Unregister a user
    Remove { user: String },
}

/// Carries out an order.
pub(crate) async fn run(config: Config) -> anyhow::Result<()> {
    let done = match &config.order {
        Order::Users { json } => config.list(*json, |_| true).await,
        Order::Sessions { json } => config.list(*json, |user| !user.address.is_empty()).await,
        change => config.change(change).await,
    };
    done.or_else(|error| if is_closed_pipe(&error) { Ok(()) } else { Err(error) })
}

impl Config {
    async fn list(&self, json: bool, is_wanted: impl Fn(&User) -> bool) -> anyhow::Result<()> {
        let mut client = AdminServiceClient::new(self.console.channel()?);
        let answer =
            client.list_users(self.console.request(ListUsersRequest {}, self.token.as_deref())?).await;
        let mut pages = answer.map_err(|status| self.explain(&status))?.into_inner();
        let mut out = BufWriter::new(io::stdout());
        while let Some(page) = self.console.next(pages.message()).await? {
            for user in page.users.iter().filter(|user| is_wanted(user)) {
                writeln!(out, "{}", if json { json_of(user) } else { line_of(user) })?;
            }
        }
        Ok(out.flush()?)
    }

    async fn change(&self, order: &Order) -> anyhow::Result<()> {
        let operator = self.operator.clone().unwrap_or_else(name_of_user);
        let mut client = AdminServiceClient::new(self.console.channel()?);
        let token = self.token.as_deref();
        let (done, username, answer) = match order.clone() {
            Order::Kick { user: username } => {
                let request = KickUserRequest { username: username.clone(), operator };
                let answer = client.kick_user(self.console.request(request, token)?).await;
                ("disconnected", username, answer.map(drop))
            }
            Order::Free { user: username } => {
                let request = FreeUserRequest { username: username.clone(), operator };
                let answer = client.free_user(self.console.request(request, token)?).await;
                ("freed", username, answer.map(drop))
            }
            Order::Remove { user: username } => {
                let request = RemoveUserRequest { username: username.clone(), operator };
                let answer = client.remove_user(self.console.request(request, token)?).await;
                ("removed", username, answer.map(drop))
            }
            Order::Users { .. } | Order::Sessions { .. } => bail!("nothing to change"),
        };
        answer.map_err(|status| self.explain(&status))?;
        println!("{done} {}", Printable(&username));
        Ok(())
    }

    fn explain(&self, status: &Status) -> anyhow::Error {
        match status.code() {
            Code::Unimplemented => anyhow::anyhow!(
                "this index takes no orders: start its console, or `lonja up`, with --admin-token"
            ),
            _ => self.console.explain(status),
        }
    }
}

/// The name of the user who runs this program. Programs that a timer or a container runs may know only the number.
fn name_of_user() -> String {
    let mut names = ["USER", "LOGNAME"].into_iter().filter_map(|variable| std::env::var(variable).ok());
    let number = || format!("uid {}", rustix::process::getuid().as_raw());
    names.find(|name| !name.is_empty()).unwrap_or_else(number)
}

fn since(user: &User) -> String {
    let since = Timestamp::from_millisecond(user.online_since_ms).unwrap_or_default();
    if user.address.is_empty() { String::new() } else { format!("{since:.3}") }
}

fn line_of(user: &User) -> String {
    let or_dash = |text: &str| if text.is_empty() { "-".to_owned() } else { text.to_owned() };
    let (owner, address, since) = (or_dash(&user.owner), or_dash(&user.address), or_dash(&since(user)));
    format!("{owner:<15} {address:<21} {since:<24} {}", Printable(&user.username))
}

fn json_of(user: &User) -> String {
    let some = |text: String| (!text.is_empty()).then_some(text);
    json!({
        "username": user.username,
        "owner": some(user.owner.clone()),
        "address": some(user.address.clone()),
        "online_since": some(since(user)),
    })
    .to_string()
}
