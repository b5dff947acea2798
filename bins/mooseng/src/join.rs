//! `mooseng cluster token` and `mooseng cluster join`: an admin makes a token, a new machine gets
//! its identity for it.

mod http;

use crate::{
    cluster::NewDir,
    connect::{Connection, SHUTDOWN},
    exit::{interrupted, usage},
    output,
};
use anyhow::{Context as _, Result};
use clap::Args;
use mooseng_client::Error;
use mooseng_core::{
    error::MetaError,
    join::{Invite, JoinError, JoinRequest, JoinToken, Joined, TokenSeed},
    limits::TOKEN_TEXT_BYTES_MAX,
    meta::CreateToken,
    net::Role,
    seam::Rng,
};
use mooseng_net::identity::Joining;
use mooseng_support::addr;
use std::{
    collections::VecDeque,
    fs::File,
    io::{self, BufRead as _, BufReader, IsTerminal as _, Read, Write},
    path::{Path, PathBuf},
    time::Duration,
};
use tokio::time::Instant;

/// First wait before the masters are asked again; doubled each time.
const WAIT: Duration = Duration::from_millis(200);
/// Longest one.
const WAIT_MAX: Duration = Duration::from_secs(2);

#[derive(Args)]
pub(crate) struct TokenArgs {
    #[command(flatten)]
    to: Connection,
    /// What the node will be: master, chunkserver, client or admin.
    #[arg(long)]
    role: Role,
    /// Its number within its role; none for clients and admins.
    #[arg(long, value_name = "N", default_value_t = 0)]
    node: u64,
    /// Its name.
    #[arg(long)]
    name: String,
    /// How long the token can be used, 7 days at most.
    #[arg(long, default_value = "1h", value_name = "TIME", value_parser = humantime::parse_duration)]
    lifetime: Duration,
    /// How long the certificate will be valid.
    #[arg(long, default_value = "10years", value_name = "TIME", value_parser = humantime::parse_duration)]
    validity: Duration,
    /// The node takes the place of the one that has this number or name; their open tokens end.
    #[arg(long)]
    replace: bool,
}

#[derive(Args)]
pub(crate) struct JoinArgs {
    /// File with the token; `-`, or nothing: the standard input. (A token is a secret: no flag takes it.)
    #[arg(long, env = "MOOSENG_TOKEN_FILE", value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Client addresses of masters, with commas between [default: those in the token].
    #[arg(long, alias = "masters", value_name = "ADDRS", value_delimiter = ',')]
    master_addrs: Vec<String>,
    /// The identity directory to make; it must not exist yet, or be empty.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Longest wait for the masters.
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = humantime::parse_duration)]
    timeout: Duration,
}

fn draw(rng: &dyn Rng) -> TokenSeed {
    let mut seed = [0; 32];
    seed.chunks_mut(8).for_each(|part| part.copy_from_slice(&rng.next_u64().to_le_bytes()));
    TokenSeed(seed)
}

/// Makes a token and prints it, alone, on one line. Its secret is drawn here and never sent.
pub(crate) async fn token(args: &TokenArgs, out: &mut impl Write) -> Result<()> {
    let invite = Invite { role: args.role, node: args.node, name: args.name.clone() };
    invite.check().map_err(usage)?;
    let identity = args.to.identity()?;
    let seed = draw(&*mooseng_host::host_seams().rng);
    let request = CreateToken {
        token: seed.id(),
        invite: invite.clone(),
        lifetime_secs: args.lifetime.as_secs(),
        validity_secs: args.validity.as_secs(),
        replace: args.replace,
    };
    let client = args.to.connect().await?;
    let made = client.request(request).await;
    let ended = client.shutdown(SHUTDOWN).await.context("the session did not end well");
    let made = made.context("no token was made")?;
    ended?;
    let (cluster, ca) = (identity.peer().cluster, identity.ca_hash());
    let token = JoinToken { cluster, ca, seed, invite, masters: made.masters };
    writeln!(out, "{}", token.to_text())?;
    eprintln!(
        "good once, until {}, for {}; keep it secret, and on that machine:\n  mooseng cluster join \
         --token-file FILE --out /etc/mooseng/identity",
        output::time(made.expires),
        token.invite
    );
    Ok(())
}

/// The first line of a file or of the standard input.
fn read_token(file: Option<&Path>) -> Result<JoinToken> {
    let source: Box<dyn Read> = match file {
        Some(path) if path != Path::new("-") => {
            Box::new(File::open(path).with_context(|| format!("the token file {}", path.display()))?)
        }
        _ => {
            if io::stdin().is_terminal() {
                eprintln!("paste the token, and press Enter:");
            }
            Box::new(io::stdin())
        }
    };
    let mut line = String::new();
    // One byte more than a token may have, so that a longer one is told as such.
    let most = TOKEN_TEXT_BYTES_MAX as u64 + 3;
    BufReader::new(source.take(most)).read_line(&mut line).context("the token cannot be read")?;
    Ok(JoinToken::parse(&line)?)
}

/// Makes this machine's identity: whole and proven, or not at all.
pub(crate) async fn join(args: &JoinArgs, out: &mut impl Write) -> Result<()> {
    let token = read_token(args.token_file.as_deref())?;
    let masters = if args.master_addrs.is_empty() { &token.masters } else { &args.master_addrs };
    let masters = masters.iter().map(|m| addr::with_port(m.trim()).map_err(usage));
    let masters = masters.collect::<Result<Vec<_>>>().context("--master-addrs")?;
    if masters.is_empty() {
        return Err(usage("the token names no masters: give --master-addrs"));
    }
    // Made before anything is asked: a token is not used up for a directory that cannot be.
    let new = NewDir::begin(&args.out)?;
    let joining = Joining::new(token)?;
    let request = joining.request();
    let joined = tokio::select! {
        biased;
        joined = ask(&masters, &request, args.timeout) => joined?,
        pressed = tokio::signal::ctrl_c() => {
            pressed?;
            return Err(interrupted());
        }
    };
    let identity = joining.accept(&joined)?;
    identity.save(new.path())?;
    new.finish()?;
    let (dir, peer) = (args.out.display(), identity.peer());
    let (name, role, cluster) = (peer.name, peer.role, peer.cluster);
    writeln!(out, "{dir} is the identity of {name}, a {role} of cluster {cluster}")?;
    Ok(())
}

/// Asks the masters in turn, the one that they say leads first, until one answers for good.
async fn ask(masters: &[String], request: &JoinRequest, within: Duration) -> Result<Joined> {
    let (begin, mut wait) = (Instant::now(), WAIT);
    let until = begin + within;
    let mut last = MetaError::Deadline("none was asked".into());
    while Instant::now() < until {
        match round(masters, request, until).await {
            Ok(joined) => return Ok(joined),
            Err(MetaError::Join(e)) if !e.is_retryable() => return Err(e.into()),
            Err(e) => last = e,
        }
        tokio::time::sleep_until((Instant::now() + wait).min(until)).await;
        wait = (2 * wait).min(WAIT_MAX);
    }
    let (tried, millis) = (masters.join(", "), begin.elapsed().as_millis() as u64);
    Err(anyhow::Error::from(Error::Masters { tried, millis, last }).context(
        "no master signed a certificate (if one took the request and its answer was lost, the token is \
         used up: have another one made with `mooseng cluster token --replace`)",
    ))
}

/// Asks each master once, and those that were hinted at.
async fn round(masters: &[String], request: &JoinRequest, until: Instant) -> Result<Joined, MetaError> {
    let mut queue: VecDeque<String> = masters.iter().cloned().collect();
    let mut hints = masters.len();
    let mut last = MetaError::Deadline("none was asked".into());
    while let Some(addr) = queue.pop_front() {
        match http::join(&addr, request, until).await {
            Ok(joined) => return Ok(joined),
            Err(MetaError::Join(e)) if !e.is_retryable() => return Err(e.into()),
            Err(e) => {
                if let MetaError::Join(JoinError::NotLeader { leader: Some(at) }) = &e
                    && hints > 0
                {
                    hints -= 1;
                    queue.retain(|a| a != at);
                    queue.push_front(at.clone());
                }
                last = e;
            }
        }
    }
    Err(last)
}

#[cfg(test)]
mod tests;
