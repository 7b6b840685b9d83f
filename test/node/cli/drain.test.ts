import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import type { DomainRow } from "../../../node/control/api.ts";
import { NodeError } from "../../../node/errors.ts";
import { domainRow } from "../control/samples.ts";
import { startTestDaemon, type TestDaemon } from "../control/test-daemon.ts";
import { runSojourn } from "./run-sojourn.ts";

const SELF = domainRow.host;
const OWN: DomainRow[] = [
  domainRow,
  { ...domainRow, id: "id-of-mail", name: "mail" },
  { ...domainRow, id: "id-of-old", name: "old", state: "shutoff" },
  { ...domainRow, id: "id-of-dead", name: "dead", state: "crashed" },
  { ...domainRow, id: "id-of-far", name: "far", host: "12D3KooWBeta", hostName: "beta" },
];

let daemon: TestDaemon;
/** What the daemon was asked to do, in order. */
let asked: string[];
/** Domains that it refuses to do that with. */
let refusals: Map<string, NodeError>;

beforeEach(async () => {
  asked = [];
  refusals = new Map();
  const act = (what: string, id: string) => {
    asked.push(`${what} ${id}`);
    const refusal = refusals.get(`${what} ${id}`);
    if (refusal !== undefined) throw refusal;
    return { domain: id, name: id, state: "running" as const };
  };
  daemon = await startTestDaemon({
    info: () => ({
      ...{ host: SELF, hostName: "alpha", version: "1", protocolVersion: 1, pid: 1, startedAt: "" },
      ...{ dataDir: daemon.folder, addresses: [], hypervisors: [], domains: 4 },
    }),
    list: () => OWN,
    stop: ({ domain }) => act("stop", domain),
    start: ({ domain }) => act("start", domain),
    migrate: ({ domain, to }) => {
      act(`migrate to ${to}`, domain);
      return {} as never;
    },
  });
});
afterEach(() => daemon[Symbol.asyncDispose]());

function noted(): string[] {
  const notes = JSON.parse(readFileSync(join(daemon.folder, "drained.json"), "utf8")) as { name: string }[];
  return notes.map(({ name }) => name);
}

describe("drain", () => {
  test("ends what runs on this host, and nothing of another's, and notes it", async () => {
    const { code, stdout } = await runSojourn(["drain"], daemon);
    expect(asked).toEqual([`stop ${domainRow.id}`, "stop id-of-mail"]);
    expect({ code, stdout }).toEqual({ code: 0, stdout: "stopped web\nstopped mail\n" });
    expect(noted()).toEqual(["web", "mail"]);
  });

  test("to a host moves what can go there, and ends the rest", async () => {
    const full = new NodeError("DESTINATION_FULL", { host: "beta", neededBytes: 2, freeBytes: 1 });
    refusals.set("migrate to beta id-of-mail", full);
    const { code, stdout } = await runSojourn(["drain", "--to", "beta"], daemon);
    expect(stdout).toBe("moved   web\nstopped mail: beta needs 2 bytes and has 1 free\n");
    expect(code).toBe(0);
    expect(noted()).toEqual(["mail"]);
  });

  test("goes on after a domain that does not end, and fails in the end", async () => {
    refusals.set(
      `stop ${domainRow.id}`,
      new NodeError("HYPERVISOR_FAILED", { domain: "web", reason: "it does not listen" }),
    );
    const { code, stdout } = await runSojourn(["drain"], daemon);
    expect(code).toBe(1);
    expect(stdout).toContain("stopped mail\n");
  });
});

describe("undrain", () => {
  test("starts what drain ended, but not what is another host's by now", async () => {
    await runSojourn(["drain"], daemon);
    refusals.set("start id-of-mail", new NodeError("DOMAIN_ELSEWHERE", { domain: "mail", host: "beta" }));
    const { code, stdout } = await runSojourn(["undrain"], daemon);
    expect({ code, stdout }).toEqual({ code: 0, stdout: "started web\nleft    mail: mail is on beta\n" });
    expect(noted()).toEqual([]);
  });

  test("tries again next time what could not be started, and with --crashed what a power cut ended", async () => {
    writeFileSync(
      join(daemon.folder, "drained.json"),
      JSON.stringify([{ domain: "id-of-mail", name: "mail" }]),
    );
    refusals.set(
      "start id-of-mail",
      new NodeError("HYPERVISOR_FAILED", { domain: "mail", reason: "no memory" }),
    );
    const { code } = await runSojourn(["undrain", "--crashed", "--wait", "1m"], daemon);
    expect(code).toBe(1);
    expect(asked).toEqual(["start id-of-mail", "start id-of-dead"]);
    expect(noted()).toEqual(["mail"]);
  });
});
