/** Daemons as a user meets them: the executable, its exit codes, and what lies in a host's data folder. */

import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { expect } from "vitest";
import type { ApiErrorBody, DomainDetail, VerifyReport } from "../../node/control/api.ts";
import type { ClusterHost } from "../../testnet/cluster.ts";
import { guestIsFilled } from "../../testnet/guest.ts";
import { type Outcome, runSojourn } from "../node/cli/run-sojourn.ts";

export const VBD_BYTES = 32 * 2 ** 20;
export const FILL_BYTES = 8 * 2 ** 20;

export function sojourn(host: ClusterHost, ...args: string[]): Promise<Outcome> {
  return runSojourn(args, { socketPath: host.socketPath });
}

/** The command succeeds, says nothing on stderr, and prints JSON. */
export async function sojournJson<T>(host: ClusterHost, ...args: string[]): Promise<T> {
  const { code, stdout, stderr } = await sojourn(host, ...args, "--json");
  expect({ code, stderr }, args.join(" ")).toEqual({ code: 0, stderr: "" });
  return JSON.parse(stdout) as T;
}

/** The command fails with `code` and exit code 1, in words for people and as JSON for programs. */
export async function refusal(
  host: ClusterHost,
  args: readonly string[],
  code: string,
): Promise<ApiErrorBody> {
  const { code: exitCode, stdout, stderr } = await sojourn(host, ...args, "--json");
  expect({ exitCode, stdout }, stderr).toEqual({ exitCode: 1, stdout: "" });
  const { error } = JSON.parse(stderr.trim().split("\n").at(-1)!) as { error: ApiErrorBody };
  expect(error.code, error.message).toBe(code);
  expect(error.message.length).toBeGreaterThan(10);
  return error;
}

/** A small domain whose guest has filled its vbd and works on. */
export async function createDomain(
  host: ClusterHost,
  name: string,
  { fillBytes = FILL_BYTES, vbdBytes = VBD_BYTES, workload = "web" } = {},
): Promise<DomainDetail> {
  await host.call("create", {
    name,
    hypervisor: "wasm",
    memoryBytes: 8 * 2 ** 20,
    vbds: [{ name: "root", sizeBytes: vbdBytes }],
    config: JSON.stringify({ workload, fillBytes, touchedMemoryBytes: 2 ** 20 }),
  });
  await guestIsFilled(host, { domain: name, onFigures: () => undefined });
  return host.call("show", { domain: name });
}

/** The guest runs on the host and reads back all that it wrote. */
export async function expectUnharmed(host: ClusterHost, domain: string): Promise<VerifyReport> {
  const { state, hostName } = await host.call("show", { domain });
  expect({ state, hostName }).toEqual({ state: "running", hostName: host.name });
  const report = await host.call("verify", { domain });
  expect(report).toMatchObject({ ok: true, errors: 0 });
  expect(report.blocksChecked).toBeGreaterThan(0);
  return report;
}

/** Where the host keeps the domain's first vbd. */
export async function vbdPath(host: ClusterHost, domain: string): Promise<string> {
  const { vbdFiles } = await host.call("show", { domain });
  return vbdFiles![0]!.path;
}

export function sha256(path: string): string {
  return createHash("sha256").update(readFileSync(path)).digest("hex");
}
