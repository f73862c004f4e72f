// The keys of a session: cross-signing, the recovery key (secret storage) and the key backup.
// What people see of it: "confirm that this is you" on a new device, "save your recovery key", "reset".
//
// A new account gets its keys and its backup by itself at the first sign-in; only the recovery key needs a person.
import { ClientEvent, type MatrixClient, MatrixError, type MatrixEvent } from "matrix-js-sdk";
import { CryptoEvent, type CryptoApi, type CryptoCallbacks, decodeRecoveryKey, type GeneratedSecretStorageKey, type VerificationRequest } from "matrix-js-sdk/lib/crypto-api";

export type SecurityPhase =
    | "checking"
    /** The account has keys, but this device is not confirmed and cannot read old messages. */
    | "confirm"
    /** All is well, but nobody could get back in without this device. */
    | "saveKey"
    | "ready";

export interface SecurityState {
    phase: SecurityPhase;
    /** A recovery key exists, so that a new device can be confirmed with it. */
    hasRecoveryKey: boolean;
    /** Another device of the person that can confirm this one. */
    hasOtherDevice: boolean;
    /** Somebody, mostly the person's own other device, asks to compare emoji. */
    request: VerificationRequest | undefined;
    /** Where the person must agree to a reset first. */
    approvalUrl: string | undefined;
}

/** Secrets are the private keys of a person, as another device hands them on (MSC4108). */
export type Secrets = Awaited<ReturnType<NonNullable<CryptoApi["exportSecretsBundle"]>>>;

export class WrongRecoveryKey extends Error {}
export class IncompleteRecovery extends Error {}
export class ResetRefused extends Error {}

export class Security {
    private client: MatrixClient | undefined;
    private readonly unlocked = new Map<string, Uint8Array<ArrayBuffer>>();
    private readonly listeners = new Set<() => void>();
    private state: SecurityState = { phase: "checking", hasRecoveryKey: false, hasOtherDevice: false, request: undefined, approvalUrl: undefined };
    private running: Promise<void> | undefined;
    private again = false;
    private resetting = false;
    private brought: Secrets | undefined;
    private answer: { resolve: () => void; reject: (e: Error) => void } | undefined;

    readonly callbacks: CryptoCallbacks = {
        getSecretStorageKey: async ({ keys }) => {
            for (const id of Object.keys(keys)) {
                const key = this.unlocked.get(id);
                if (key) return [id, key];
            }
            return null;
        },
        cacheSecretStorageKey: (id, _info, key) => {
            this.unlocked.set(id, key);
        },
    };

    subscribe = (l: () => void): (() => void) => {
        this.listeners.add(l);
        return () => this.listeners.delete(l);
    };
    snapshot = (): SecurityState => this.state;

    private set(change: Partial<SecurityState>): void {
        this.state = { ...this.state, ...change };
        for (const l of this.listeners) l();
    }

    private get crypto(): CryptoApi {
        return this.client!.getCrypto()!;
    }

    start(client: MatrixClient): void {
        this.client = client;
        client.on(CryptoEvent.VerificationRequestReceived, this.onRequest);
        client.on(CryptoEvent.KeysChanged, this.check);
        client.on(CryptoEvent.UserTrustStatusChanged, this.check);
        client.on(CryptoEvent.DevicesUpdated, this.onDevices);
        client.on(ClientEvent.AccountData, this.onAccountData);
        const onSync = (): void => {
            if (!client.isInitialSyncComplete()) return;
            client.off(ClientEvent.Sync, onSync);
            this.check();
        };
        client.on(ClientEvent.Sync, onSync);
    }

    /** bring takes what another device handed on at the sign-in; used when the first sync is there. */
    async bring(secrets: Secrets): Promise<void> {
        await this.crypto.importSecretsBundle?.(secrets);
        this.brought = secrets;
    }

    stop(): void {
        const client = this.client;
        if (!client) return;
        client.off(CryptoEvent.VerificationRequestReceived, this.onRequest);
        client.off(CryptoEvent.KeysChanged, this.check);
        client.off(CryptoEvent.UserTrustStatusChanged, this.check);
        client.off(CryptoEvent.DevicesUpdated, this.onDevices);
        client.off(ClientEvent.AccountData, this.onAccountData);
        this.client = undefined;
        this.unlocked.clear();
    }

    private onRequest = (request: VerificationRequest): void => {
        if (request.initiatedByMe) return;
        this.set({ request });
    };
    private onDevices = (users: string[]): void => {
        if (users.includes(this.client?.getSafeUserId() ?? "")) this.check();
    };
    private onAccountData = (event: MatrixEvent): void => {
        if (event.getType().startsWith("m.secret_storage.") || event.getType().startsWith("m.cross_signing.")) this.check();
    };

    /** check works out the phase anew; calls during a check lead to one more. */
    check = (): void => {
        if (this.resetting) return;
        if (this.running) {
            this.again = true;
            return;
        }
        this.running = this.workOut()
            .catch((e: unknown) => console.warn("security check failed", e))
            .finally(() => {
                this.running = undefined;
                if (this.again) {
                    this.again = false;
                    this.check();
                }
            });
    };

    private async workOut(): Promise<void> {
        const client = this.client;
        if (!client) return;
        const crypto = this.crypto;
        const me = client.getSafeUserId();
        const { brought } = this;
        if (brought) {
            this.brought = undefined;
            await crypto.bootstrapCrossSigning({}); // with the keys that came: the device signs itself
            if (brought.backup) {
                await crypto.checkKeyBackupAndEnable();
                void crypto.restoreKeyBackup().catch((e: unknown) => console.warn("restoring keys failed", e));
            }
        }
        if (!(await crypto.userHasCrossSigningKeys(me, true))) {
            // The first device of the account. The server takes the first set of keys without asking again.
            await crypto.bootstrapCrossSigning({ authUploadDeviceSigningKeys: async (send) => await send(null) });
            if (!(await crypto.getKeyBackupInfo())) await crypto.resetKeyBackup();
        }
        const trust = await crypto.getDeviceVerificationStatus(me, client.getDeviceId()!);
        const recovery = await client.secretStorage.getKey().catch(() => null);
        const devices = (await crypto.getUserDeviceInfo([me])).get(me);
        let other = false;
        for (const id of devices?.keys() ?? []) {
            if (id === client.getDeviceId()) continue;
            if ((await crypto.getDeviceVerificationStatus(me, id))?.signedByOwner) other = true;
        }
        if (this.client !== client) return;
        this.set({
            phase: !trust?.crossSigningVerified ? "confirm" : !recovery ? "saveKey" : "ready",
            hasRecoveryKey: !!recovery,
            hasOtherDevice: other,
        });
    }

    /** newRecoveryKey makes a key to show; nothing is changed until saveRecoveryKey. */
    newRecoveryKey(): Promise<GeneratedSecretStorageKey> {
        return this.crypto.createRecoveryKeyFromPassphrase();
    }

    /** saveRecoveryKey puts the person's keys into the server's storage, locked by the key that the person keeps. */
    async saveRecoveryKey(key: GeneratedSecretStorageKey): Promise<void> {
        const crypto = this.crypto;
        await crypto.bootstrapSecretStorage({ createSecretStorageKey: async () => key, setupNewSecretStorage: true });
        if (!(await crypto.getKeyBackupInfo())) await crypto.resetKeyBackup();
        this.check();
    }

    /** recover confirms this device with the recovery key and brings the keys of old messages back. */
    async recover(text: string): Promise<void> {
        const client = this.client!;
        const crypto = this.crypto;
        let key: Uint8Array<ArrayBuffer>;
        try {
            key = decodeRecoveryKey(text);
        } catch (e) {
            throw new WrongRecoveryKey(undefined, { cause: e });
        }
        const stored = await client.secretStorage.getKey();
        if (!stored) throw new IncompleteRecovery();
        const [id, info] = stored;
        if (!(await client.secretStorage.checkKey(key, info))) throw new WrongRecoveryKey();
        // Without this, bootstrapCrossSigning would make new keys and lock the person's other devices out.
        if (!(await client.secretStorage.isStored("m.cross_signing.master"))) throw new IncompleteRecovery();
        this.unlocked.set(id, key);
        await crypto.bootstrapCrossSigning({});
        if (await client.secretStorage.isStored("m.megolm_backup.v1")) {
            await crypto.loadSessionBackupPrivateKeyFromSecretStorage();
            await crypto.checkKeyBackupAndEnable();
            // Old messages appear as their keys arrive; nobody has to wait for all of them.
            void crypto.restoreKeyBackup().catch((e: unknown) => console.warn("restoring keys failed", e));
        }
        this.check();
    }

    /** askOtherDevice starts comparing emoji with the person's other devices. */
    async askOtherDevice(): Promise<void> {
        this.set({ request: await this.crypto.requestOwnUserVerification() });
    }

    /** askPerson starts comparing emoji with somebody else, through the chat with them. */
    async askPerson(userId: string, roomId: string): Promise<void> {
        this.set({ request: await this.crypto.requestVerificationDM(userId, roomId) });
    }

    closeRequest(): void {
        this.set({ request: undefined });
        this.check();
    }

    /**
     * reset gives the account new keys. Old messages that no device can read any more stay unreadable. The server
     * wants the person to agree on its account page: that comes first, for what follows cannot be undone. approvalUrl
     * is set until approve() or refuse() is called. Errors: ResetRefused.
     */
    async reset(): Promise<void> {
        const client = this.client!;
        const metadata = await client.getAuthMetadata().catch(() => undefined);
        if (metadata?.account_management_uri && metadata.account_management_actions_supported?.includes(resetAction)) {
            const url = new URL(metadata.account_management_uri);
            url.searchParams.set("action", resetAction);
            await this.askApproval(url.href);
        }
        this.unlocked.clear();
        // A look at the server's keys between making new ones and sending them would show the old ones, and the
        // new ones would be thrown away.
        this.resetting = true;
        try {
            await this.crypto.resetEncryption(async (send) => {
                try {
                    return await send(null);
                } catch (e) {
                    const page = approvalPage(e);
                    if (!page) throw e;
                    await this.askApproval(page);
                    return await send({ session: (e as MatrixError).data["session"] as string });
                }
            });
        } finally {
            this.resetting = false;
            this.check();
        }
        await client.getCrypto()?.checkKeyBackupAndEnable();
    }

    private askApproval(url: string): Promise<void> {
        return new Promise<void>((resolve, reject) => {
            this.answer = { resolve, reject };
            this.set({ approvalUrl: url });
        }).finally(() => this.set({ approvalUrl: undefined }));
    }

    /** approve says that the person has agreed on the account page; refuse, that they will not. */
    approve(): void {
        this.answer?.resolve();
    }
    refuse(): void {
        this.answer?.reject(new ResetRefused());
    }
}

const resetAction = "org.matrix.cross_signing_reset";

// approvalPage finds the page of the account on which a reset is allowed.
function approvalPage(e: unknown): string | undefined {
    if (!(e instanceof MatrixError) || e.httpStatus !== 401) return undefined;
    const params = e.data["params"] as Record<string, { url?: string }> | undefined;
    return params?.["m.oauth"]?.url ?? params?.["org.matrix.cross_signing_reset"]?.url;
}
