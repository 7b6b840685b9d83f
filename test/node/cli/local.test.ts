/** The commands that need no daemon: init, up's own checks, nbd-serve. */

import { once } from "node:events";
import { mkdtemp, readFile, rm, stat, truncate, writeFile } from "node:fs/promises";
import { connect } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { readConfigFile } from "../../../node/config.ts";
import { runSojourn, spawnSojourn } from "./run-sojourn.ts";

let folder: string;
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), "sojourn-local-"));
});
afterEach(() => rm(folder, { recursive: true, force: true }));

async function initJson(...args: string[]): Promise<Record<string, unknown>> {
  const { code, stdout, stderr } = await runSojourn([
    "init",
    "--data-dir",
    join(folder, "data"),
    "--json",
    ...args,
  ]);
  expect({ code, stderr }).toEqual({ code: 0, stderr: "" });
  return JSON.parse(stdout) as Record<string, unknown>;
}

describe("init", () => {
  test("writes what the command line says, and a key that only its owner reads", async () => {
    const said = await initJson("--name", "alpha", "--listen", "127.0.0.1:4801");
    const dataDir = join(folder, "data");
    expect(said).toMatchObject({
      config: join(dataDir, "config.json"),
      configCreated: true,
      key: join(dataDir, "host.key"),
      keyCreated: true,
      host: expect.stringMatching(/^12D3KooW/),
    });
    expect(await readConfigFile(join(dataDir, "config.json"))).toEqual({
      name: "alpha",
      control: { listen: "127.0.0.1:4801" },
    });
    const text = await readFile(join(dataDir, "config.json"), "utf8");
    expect(text).toMatch(/^\/\/ migration\.iterationsMax\n\/\/ {5}\S.*\n\/\/ {5}default 30: /m);
    for (const file of ["config.json", "host.key"]) {
      expect((await stat(join(dataDir, file))).mode & 0o777, file).toBe(0o600);
    }
  });

  test("run again changes nothing and says what was there", async () => {
    const first = await initJson("--name", "alpha");
    const again = await initJson("--name", "alpha");
    expect(again).toEqual({ ...first, configCreated: false, keyCreated: false });
    const { stdout } = await runSojourn(["init", "--data-dir", join(folder, "data")]);
    expect(stdout.match(/was there, unchanged/g)).toHaveLength(2);
  });

  test("does not change a configuration that says something else", async () => {
    await initJson("--name", "alpha");
    const before = await readFile(join(folder, "data", "config.json"), "utf8");
    const { code, stderr } = await runSojourn(["init", "--data-dir", join(folder, "data"), "--name", "beta"]);
    expect(code).toBe(2);
    expect(stderr).toContain("edit it instead");
    expect(await readFile(join(folder, "data", "config.json"), "utf8")).toBe(before);
  });

  test.each([
    [["--listen", "somewhere"], /control\.listen: must be an IP address and a port/],
    [["--announce", "127.0.0.1:1"], /control\.announce\.0: must be a multiaddr/],
    [["--peer", "/ip4/127.0.0.1/tcp/1"], /unknown option '--peer'/],
  ])("with %j is a usage error that leaves nothing behind", async (args, complaint) => {
    const { code, stderr } = await runSojourn(["init", "--data-dir", join(folder, "data"), ...args]);
    expect(code).toBe(2);
    expect(stderr).toMatch(complaint);
    await expect(stat(join(folder, "data"))).rejects.toMatchObject({ code: "ENOENT" });
  });

  test("--reference explains every option and writes nothing", async () => {
    const { code, stdout } = await runSojourn(["init", "--data-dir", join(folder, "data"), "--reference"]);
    expect(code).toBe(0);
    expect(stdout).toMatch(/^migration\.iterationsMax\n {4}\S.*\n {4}default 30: /m);
    await expect(stat(join(folder, "data"))).rejects.toMatchObject({ code: "ENOENT" });
  });
});

describe("up", () => {
  test("refuses a configuration that is wrong, by its path, before anything starts", async () => {
    await writeFile(join(folder, "config.json"), '{"migration":{"iterationsMax":0}}');
    const { code, stderr } = await runSojourn(["up", "--data-dir", folder]);
    expect(code).toBe(2);
    expect(stderr).toMatch(/migration\.iterationsMax: .* \(CONFIG_INVALID\)\n/);
  });

  test("refuses a list of peers, and says how hosts become a cluster now", async () => {
    await writeFile(join(folder, "config.json"), '{"peers":[]}');
    const { code, stderr } = await runSojourn(["up", "--data-dir", folder]);
    expect(code).toBe(2);
    expect(stderr).toMatch(/config\.json.*peers: .*delete this setting.*sojourn invite.*sojourn join/);
  });

  test("has every option of the configuration as a flag, stronger than the file", async () => {
    await writeFile(join(folder, "config.json"), '{"migration":{"iterationsMax":5}}');
    const { code, stderr } = await runSojourn([
      "up",
      "--data-dir",
      folder,
      "--migration-iterations-max",
      "many",
    ]);
    expect(code).toBe(2);
    expect(stderr).toContain("migration.iterationsMax");
  });
});

describe("nbd-serve", () => {
  test("serves a file until it is told to stop", async () => {
    const [file, socketPath] = [join(folder, "disk.img"), join(folder, "nbd.sock")];
    await writeFile(file, "");
    await truncate(file, 1 << 20);
    const child = spawnSojourn(["nbd-serve", file, "--unix", socketPath, "--read-only"]);
    const closed = once(child, "close");
    const [line] = (await once(child.stdout, "data")) as [Buffer];
    expect(line.toString()).toBe(`serving ${file} (1MiB) at nbd+unix:///?socket=${socketPath}\n`);
    const socket = connect(socketPath);
    const [greeting] = (await once(socket, "data")) as [Buffer];
    expect(greeting.subarray(0, 16).toString()).toBe("NBDMAGICIHAVEOPT");
    socket.destroy();
    child.kill("SIGINT");
    expect(await closed).toEqual([0, null]);
    await expect(stat(socketPath)).rejects.toMatchObject({ code: "ENOENT" });
  });

  test.each([[[]], [["--unix", "/tmp/x.sock", "--port", "0"]]])(
    "with %j does not know where to listen",
    async (args) => {
      const { code, stderr } = await runSojourn(["nbd-serve", "disk.img", ...args]);
      expect(code).toBe(2);
      expect(stderr).toContain("one place to listen");
    },
  );

  test("without the file says so", async () => {
    const { code, stderr } = await runSojourn(["nbd-serve", join(folder, "none"), "--port", "0"]);
    expect(code).toBe(2);
    expect(stderr).toContain("there is no file");
  });
});
