/**
 * Failures of the control socket itself, and the form in which every failure reaches a caller.
 *
 * A daemon's failure crosses the socket as an `ApiErrorBody` and is thrown again by the client as an
 * `ApiError` with the same code: a caller handles "no such domain" and "no daemon" alike.
 */

import type { ApiErrorBody } from "./api.ts";

export type ControlErrorDetail =
  /** Nobody answers on the socket. */
  | { code: "CONTROL_NO_DAEMON"; socketPath: string; reason: string }
  /** The socket belongs to another user. */
  | { code: "CONTROL_NOT_PERMITTED"; socketPath: string }
  /** The path cannot be a unix socket, or is taken by something else. */
  | { code: "CONTROL_BAD_SOCKET_PATH"; socketPath: string; reason: string }
  /** Another daemon answers on the socket that we were to open. */
  | { code: "CONTROL_SOCKET_IN_USE"; socketPath: string }
  /** The daemon went away before it had answered; what it was asked to do may have happened. */
  | { code: "CONTROL_CONNECTION_LOST"; method: string }
  /** The daemon's answer is not one. */
  | { code: "CONTROL_BAD_RESPONSE"; reason: string }
  /** Not a request; the server closes the connection. */
  | { code: "CONTROL_BAD_REQUEST"; reason: string }
  /** This daemon has no such method. */
  | { code: "CONTROL_UNKNOWN_METHOD"; method: string }
  /** The parameters are not what the method takes. */
  | { code: "CONTROL_BAD_PARAMS"; method: string; reason: string }
  /** More requests at once on one connection than the daemon holds for it. */
  | { code: "CONTROL_TOO_MANY_REQUESTS"; requestsMax: number }
  /** The daemon stops and answers no more. */
  | { code: "CONTROL_STOPPING"; method: string };

export class ApiError extends Error {
  readonly code: string;
  readonly remedy: string | undefined;
  readonly detail: Record<string, unknown> | undefined;
  readonly exitCode: number;

  constructor(body: ApiErrorBody, options?: ErrorOptions) {
    super(body.message, options);
    this.name = "ApiError";
    this.code = body.code;
    this.remedy = body.remedy;
    this.detail = body.detail;
    this.exitCode = body.exitCode;
  }

  toBody(): ApiErrorBody {
    return {
      code: this.code,
      message: this.message,
      ...(this.remedy === undefined ? {} : { remedy: this.remedy }),
      ...(this.detail === undefined ? {} : { detail: this.detail }),
      exitCode: this.exitCode,
    };
  }
}

export function controlError(detail: ControlErrorDetail, options?: ErrorOptions): ApiError {
  const { code, ...fields } = detail;
  const { remedy, exitCode = 1, message } = explain(detail);
  return new ApiError(
    { code, message, ...(remedy === undefined ? {} : { remedy }), detail: fields, exitCode },
    options,
  );
}

type Explanation = { message: string; remedy?: string; exitCode?: number };

function explain(detail: ControlErrorDetail): Explanation {
  switch (detail.code) {
    case "CONTROL_NO_DAEMON":
      return {
        message: `no daemon answers at ${detail.socketPath}`,
        remedy: "start it with `sojourn up`, or name another socket with --address or SOJOURN_ADDR",
      };
    case "CONTROL_NOT_PERMITTED":
      return {
        message: `the socket ${detail.socketPath} belongs to another user`,
        remedy: "run the command as the user that runs the daemon",
      };
    case "CONTROL_BAD_SOCKET_PATH":
      return {
        message: `${detail.socketPath} cannot be the control socket: ${detail.reason}`,
        remedy: "choose another path in the configuration (api.socketPath) or with --address",
      };
    case "CONTROL_SOCKET_IN_USE":
      return {
        message: `another daemon answers at ${detail.socketPath}`,
        remedy: "one data directory has one daemon: stop the other one, or use another data directory",
      };
    case "CONTROL_CONNECTION_LOST":
      return lost(detail.method);
    case "CONTROL_BAD_RESPONSE":
      return {
        message: `the daemon's answer is not understood: ${detail.reason}`,
        remedy: "compare `sojourn --version` with the daemon's",
      };
    case "CONTROL_BAD_REQUEST":
      return { message: `not a request: ${detail.reason}`, exitCode: 2 };
    case "CONTROL_UNKNOWN_METHOD":
      return { message: `this daemon has no method ${JSON.stringify(detail.method)}`, exitCode: 2 };
    case "CONTROL_BAD_PARAMS":
      return { message: `${detail.method} refuses its parameters: ${detail.reason}`, exitCode: 2 };
    case "CONTROL_TOO_MANY_REQUESTS":
      return { message: `more than ${detail.requestsMax} requests at once on one connection` };
    case "CONTROL_STOPPING":
      return lost(detail.method);
  }
}

/** A migration that nobody watches any more is in nobody's hands but its own: the one case that stays undecided. */
function lost(method: string): Explanation {
  const message = `the daemon stopped before it had answered ${method}`;
  if (method !== "migrate")
    return { message, remedy: "start it again with `sojourn up` and look with `sojourn list`" };
  return {
    message,
    remedy:
      "start it again with `sojourn up`: it takes the migration up from its journal; `sojourn show` says where the domain is",
    exitCode: 4,
  };
}
