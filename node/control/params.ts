/** What the server lets through to a handler: the parameters of every method, checked and bounded. */

import { z } from "zod";
import { NAME_LENGTH_MAX, VBDS_MAX } from "../../protocol/limits.ts";
import type { Api, ApiMethod } from "./api.ts";

const CONFIG_LENGTH_MAX = 64 << 10;
const PATH_LENGTH_MAX = 4096;

/** A name ends up in file names, in tables and in other hosts' logs. */
const NAME_PATTERN = /^[A-Za-z0-9][A-Za-z0-9._-]*$/;
const NAME_RULE = "must begin with a letter or digit, and hold only letters, digits, '.', '_' and '-'";

const name = z.string().min(1).max(NAME_LENGTH_MAX).regex(NAME_PATTERN, NAME_RULE);
const reference = z.string().min(1).max(NAME_LENGTH_MAX);
const path = z
  .string()
  .max(PATH_LENGTH_MAX)
  .startsWith("/", "must be an absolute path")
  .refine((value) => !value.includes("\0"), "must not hold a zero byte");
const sizeBytes = z.int().min(1);

const noParams = z.strictObject({});
const domainParams = z.strictObject({ domain: reference });

const vbd = z
  .strictObject({
    name,
    sizeBytes: sizeBytes.exactOptional(),
    path: path.exactOptional(),
    image: path.exactOptional(),
    flatten: z.boolean().exactOptional(),
  })
  .refine((value) => value.flatten !== true || value.image !== undefined, "only an image can be flattened")
  .refine(
    (value) => value.sizeBytes !== undefined || value.path !== undefined || value.image !== undefined,
    "needs sizeBytes, path or image",
  )
  .refine(
    (value) => value.path === undefined || (value.sizeBytes === undefined && value.image === undefined),
    "a path is taken as it is: neither sizeBytes nor image may stand beside it",
  );

const config = z
  .string()
  .max(CONFIG_LENGTH_MAX)
  .refine((text) => {
    try {
      JSON.parse(text);
      return true;
    } catch {
      return false;
    }
  }, "must be JSON");

const create = z.strictObject({
  name,
  hypervisor: name,
  memoryBytes: sizeBytes,
  vbds: z
    .array(vbd)
    .max(VBDS_MAX)
    .refine((vbds) => new Set(vbds.map((entry) => entry.name)).size === vbds.length, "two vbds of one name"),
  config,
});

const migrate = z.strictObject({
  domain: reference,
  to: reference,
  options: z
    .strictObject({
      iterationsMax: z.int().min(1).max(1000).exactOptional(),
      hotSendsMax: z.int().min(1).max(1000).exactOptional(),
      writeSlowdownMax: z.number().min(0).max(0.95).exactOptional(),
      bandwidthMaxBytesPerSecond: z.int().min(1).exactOptional(),
    })
    .exactOptional(),
});

const DAY_MS = 24 * 60 * 60_000;

const invite = z.strictObject({
  expiresMs: z
    .int()
    .min(1_000)
    .max(30 * DAY_MS)
    .exactOptional(),
  uses: z.int().min(1).max(1000).exactOptional(),
});

const revoke = z.strictObject({
  host: reference,
  reason: z
    .string()
    .min(1)
    .max(256)
    .regex(/^\P{Cc}+$/u, "must be one line")
    .exactOptional(),
  withAdmitted: z.boolean().exactOptional(),
});

const rotateSecret = z.strictObject({
  overlapMs: z
    .int()
    .min(0)
    .max(365 * DAY_MS)
    .exactOptional(),
});

export const apiParams: { readonly [M in ApiMethod]: z.ZodType<Api[M]["params"]> } = {
  info: noParams,
  hosts: noParams,
  members: noParams,
  watch: noParams,
  leave: noParams,
  invite,
  join: z.strictObject({ token: z.string().min(1).max(8192) }),
  revoke,
  "rotate-secret": rotateSecret,
  create,
  start: domainParams,
  stop: domainParams,
  destroy: domainParams,
  list: noParams,
  show: domainParams,
  plan: domainParams,
  migrate,
  cancel: domainParams,
  recover: z.strictObject({
    domain: reference,
    adopt: z
      .strictObject({ reason: z.string().min(1).max(1024), user: z.string().min(1).max(256) })
      .exactOptional(),
  }),
  replicas: z.strictObject({ domain: reference.exactOptional() }),
  history: domainParams,
  custody: domainParams,
  verify: domainParams,
  "arm-fault": z.strictObject({ point: z.string().min(1).max(256), action: z.string().min(1).max(256) }),
  "stop-daemon": noParams,
};

export function isApiMethod(method: string): method is ApiMethod {
  return Object.hasOwn(apiParams, method);
}

/** The first few complaints, each with the path of what it is about. */
export function explainIssues(error: z.ZodError): string {
  return error.issues
    .slice(0, 5)
    .map((issue) => (issue.path.length === 0 ? issue.message : `${issue.path.join(".")}: ${issue.message}`))
    .join("; ");
}
