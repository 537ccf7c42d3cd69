// SPDX-License-Identifier: GPL-2.0

//! Calls of the protocol: finds the method of a path, decodes the request, and hands it to the
//! daemon on a thread that may wait for devices.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use hyper::body::Incoming;
use tokio::task::{spawn_blocking, JoinError};
use tonic::body::Body;
use tonic::server::{Grpc, ServerStreamingService, UnaryService};
use tonic::{Code, Request, Response, Status};
use tonic_prost::ProstCodec;

use crate::api::{ListRequest, ListResponse, Method};
use crate::daemon::Daemon;
use crate::disks::Disks;
use crate::service;

type AnswerFuture<T> = Pin<Box<dyn Future<Output = Result<Response<T>, Status>> + Send>>;
type Parts = tokio_stream::Iter<std::vec::IntoIter<Result<ListResponse, Status>>>;

/// A method of the daemon.
struct MethodCall<D, Q, A> {
    daemon: Arc<Daemon<D>>,
    method: fn(&Daemon<D>, Q) -> Result<A, Status>,
}

/// Runs a method on a thread that may wait.
fn run<D, Q, A>(call: &MethodCall<D, Q, A>, request: Q) -> impl Future<Output = Result<A, Status>>
where
    D: Disks + 'static,
    Q: Send + 'static,
    A: Send + 'static,
{
    let (daemon, method) = (call.daemon.clone(), call.method);
    let done = spawn_blocking(move || method(&daemon, request));
    async {
        let internal =
            |e: JoinError| Status::new(Code::Internal, format!("the call ended early: {e}"));
        done.await.map_err(internal)?
    }
}

impl<D, Q, A> UnaryService<Q> for MethodCall<D, Q, A>
where
    D: Disks + 'static,
    Q: Send + 'static,
    A: Send + 'static,
{
    type Response = A;
    type Future = AnswerFuture<A>;

    fn call(&mut self, request: Request<Q>) -> Self::Future {
        let done = run(self, request.into_inner());
        Box::pin(async { done.await.map(Response::new) })
    }
}

/// The one method whose answer has several parts.
struct ListMethod<D>(MethodCall<D, ListRequest, Vec<ListResponse>>);

impl<D: Disks + 'static> ServerStreamingService<ListRequest> for ListMethod<D> {
    type Response = ListResponse;
    type ResponseStream = Parts;
    type Future = AnswerFuture<Parts>;

    fn call(&mut self, request: Request<ListRequest>) -> Self::Future {
        let done = run(&self.0, request.into_inner());
        Box::pin(async {
            let parts: Vec<_> = done.await?.into_iter().map(Ok).collect();
            Ok(Response::new(tokio_stream::iter(parts)))
        })
    }
}

async fn unary<D, Q, A>(
    daemon: Arc<Daemon<D>>,
    request: http::Request<Incoming>,
    method: fn(&Daemon<D>, Q) -> Result<A, Status>,
) -> http::Response<Body>
where
    D: Disks + 'static,
    Q: prost::Message + Default + 'static,
    A: prost::Message + Default + 'static,
{
    let call = MethodCall { daemon, method };
    let mut grpc = Grpc::new(ProstCodec::<A, Q>::default());
    grpc.unary(call, request).await
}

/// Answers one call.
pub async fn answer<D: Disks + 'static>(
    daemon: Arc<Daemon<D>>,
    request: http::Request<Incoming>,
) -> http::Response<Body> {
    let Some(method) = Method::of(request.uri().path()) else {
        return unknown(request.uri().path());
    };
    match method {
        Method::Prepare => unary(daemon, request, service::prepare).await,
        Method::View => unary(daemon, request, service::view).await,
        Method::Mounts => unary(daemon, request, service::mounts).await,
        Method::Commit => unary(daemon, request, service::commit).await,
        Method::Remove => unary(daemon, request, service::remove).await,
        Method::Stat => unary(daemon, request, service::stat).await,
        Method::Update => unary(daemon, request, service::update).await,
        Method::Usage => unary(daemon, request, service::usage).await,
        Method::Cleanup => unary(daemon, request, service::cleanup).await,
        Method::List => {
            let call = MethodCall {
                daemon,
                method: service::list,
            };
            let mut grpc = Grpc::new(ProstCodec::<ListResponse, ListRequest>::default());
            grpc.server_streaming(ListMethod(call), request).await
        }
    }
}

fn unknown(path: &str) -> http::Response<Body> {
    let text = format!("there is no method {path}");
    Status::new(Code::Unimplemented, text).into_http()
}
