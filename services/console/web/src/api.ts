// The client of the console: it calls the origin that the page came from, over gRPC-web.

import { createClient, type Interceptor } from "@connectrpc/connect";
import { createGrpcWebTransport } from "@connectrpc/connect-web";

import { ConsoleService } from "./gen/lonja/console/v1/console_pb";

const TOKEN = "lonja-console-token";

const withToken: Interceptor = (next) => (request) => {
  const token = sessionStorage.getItem(TOKEN);
  if (token) request.header.set("authorization", `Bearer ${token}`);
  return next(request);
};

/** Remembers the token until the tab is closed. */
export function setToken(token: string): void {
  sessionStorage.setItem(TOKEN, token);
}

export const console_ = createClient(
  ConsoleService,
  createGrpcWebTransport({ baseUrl: location.origin, interceptors: [withToken] }),
);
