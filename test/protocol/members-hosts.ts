/** Hosts with keys, and what they say about who is a member. */

import { createHash } from "node:crypto";
import { generateKeyPairFromSeed } from "@libp2p/crypto/keys";
import type { Ed25519PrivateKey } from "@libp2p/interface";
import { peerIdFromPrivateKey } from "@libp2p/peer-id";
import { signStatement, statementCrypto } from "../../node/cluster/signing.ts";
import { MemberList } from "../../protocol/members/member-list.ts";
import type { SignedStatement, Statement, StatementCrypto } from "../../protocol/members/statement.ts";

export type TestHost = { id: string; name: string; key: Ed25519PrivateKey };

export const NO_ADDRESSES = { control: [], data: [] } as const;

/** The same keys in every run. */
export async function makeHosts(count: number): Promise<TestHost[]> {
  return Promise.all(
    Array.from({ length: count }, async (_, index) => {
      const key = await generateKeyPairFromSeed("Ed25519", new Uint8Array(32).fill(index + 1));
      return { id: peerIdFromPrivateKey(key).toString(), name: `host-${index}`, key };
    }),
  );
}

export function sign(by: TestHost, statement: Statement): Promise<SignedStatement> {
  return signStatement(by.key, statement);
}

/** Real signatures, each checked once: the same statements are read in many orders. */
const answers = new Map<string, boolean>();
const remembering: StatementCrypto = {
  ...statementCrypto,
  verify(host, bytes, signature) {
    const key = createHash("sha256").update(host).update(bytes).update(signature).digest("base64");
    const known = answers.get(key) ?? statementCrypto.verify(host, bytes, signature);
    answers.set(key, known);
    return known;
  },
};

export class Speaker {
  readonly genesis: SignedStatement;
  readonly cluster: string;
  #nonce = 0;

  private constructor(genesis: SignedStatement) {
    this.genesis = genesis;
    this.cluster = this.list().cluster;
  }

  static async found(founder: TestHost, nonce = "0".repeat(32)): Promise<Speaker> {
    const { id: by, name } = founder;
    return new Speaker(await sign(founder, { kind: "genesis", by, name, addresses: NO_ADDRESSES, nonce }));
  }

  list(statements: readonly SignedStatement[] = []): MemberList {
    const list = new MemberList(this.genesis.bytes, remembering);
    list.add(statements.map(({ bytes }) => bytes));
    return list;
  }

  admit(by: TestHost, host: TestHost): Promise<SignedStatement> {
    const nonce = (this.#nonce++).toString(16).padStart(32, "0");
    const { cluster } = this;
    const { name } = host;
    return sign(by, {
      kind: "admit",
      cluster,
      by: by.id,
      host: host.id,
      name,
      addresses: NO_ADDRESSES,
      nonce,
    });
  }

  revoke(by: TestHost, host: TestHost, keeps: readonly TestHost[] = []): Promise<SignedStatement> {
    const { cluster } = this;
    const kept = [...new Set(keeps.map(({ id }) => id))].filter((id) => id !== host.id).sort();
    const reason = `${by.name} says so`;
    return sign(by, { kind: "revoke", cluster, by: by.id, host: host.id, reason, keeps: kept });
  }

  renew(by: TestHost, sequence: number, name = `${by.name}-${sequence}`): Promise<SignedStatement> {
    const addresses = { control: [`/ip4/192.0.2.1/tcp/${sequence}`], data: [] };
    return sign(by, { kind: "renew", cluster: this.cluster, by: by.id, sequence, name, addresses });
  }
}
