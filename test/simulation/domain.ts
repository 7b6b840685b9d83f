/** The domain of a world: what its vbds hold at first, and how a migration of it is described. */
import { GenerationLog } from "../../protocol/generation-log.ts";
import type { SourceContext } from "../../protocol/source.ts";
import { BLOCK_SIZE_BYTES, blockCountOf } from "../../protocol/units.ts";
import type { Host } from "./daemon.ts";
import { SECTOR_BYTES } from "./disk.ts";
import type { Token } from "./guest.ts";
import type { Options } from "./options.ts";
import type { Prng } from "./prng.ts";

/** Some blocks are holes. */
export function initialTokens(prng: Prng, sizeBytes: number): Token[] {
  const tokens: Token[] = [];
  for (let at = 0, token = 0; at < sizeBytes; at += SECTOR_BYTES) {
    if (at % BLOCK_SIZE_BYTES === 0) token = prng.chance(60) ? prng.between(1, 999_999) : 0;
    tokens.push(token);
  }
  return tokens;
}

export function sourceContext(
  { journal }: Host,
  { sizes, memory, machine }: Options,
  ids: Pick<SourceContext, "migration" | "destination" | "generation">,
): SourceContext {
  const { log, replicas } = journal.state;
  return {
    ...ids,
    ...machine,
    domain: {
      id: "domain",
      name: "domain",
      hypervisor: "simulated",
      memoryBytes: memory.pages,
      config: "",
      vbds: sizes.map((sizeBytes, vbd) => ({ name: `vbd${vbd}`, sizeBytes })),
    },
    dataBytes: sizes.reduce((sum, sizeBytes) => sum + sizeBytes, 0),
    log: GenerationLog.of(sizes.map(blockCountOf), log, ids.generation - 1),
    replicas,
  };
}
