// Starts and stops the Matrix client of a session. This chunk carries the SDK; it loads after sign-in only.
import {
    ClientEvent,
    createClient,
    HttpApiEvent,
    IndexedDBStore,
    type MatrixClient,
    MatrixError,
    MatrixScheduler,
    PendingEventOrdering,
} from "matrix-js-sdk";
import { logger } from "matrix-js-sdk/lib/logger";
import { forgetPush } from "../push";
import { clientId, homeserver } from "./place";
import { type Secrets, Security } from "./security";
import { cryptoDatabase, dropSession, saveSession, syncDatabase, wipeDatabases, type Session } from "./store";

export interface Running {
    client: MatrixClient;
    security: Security;
    /** Stops the client and keeps everything. */
    stop: () => Promise<void>;
    /** Signs this device out and removes everything from this browser. */
    signOut: () => Promise<void>;
}

/** Ended says why the server no longer knows the session: its keys may stay ("expired") or must go ("ended"). */
export type Ended = "expired" | "ended";

(logger as unknown as { setLevel(level: string): void }).setLevel("warn");

/** start opens the stores of a session and begins to sync. secrets came with the sign-in, if it was by QR code. */
export async function start(session: Session, onEnded: (why: Ended) => void, secrets?: Secrets): Promise<Running> {
    const store = new IndexedDBStore({
        indexedDB: window.indexedDB,
        localStorage: window.localStorage,
        dbName: syncDatabase,
    });
    const security = new Security();
    let kept = session;
    const client = createClient({
        baseUrl: homeserver,
        userId: session.userId,
        deviceId: session.deviceId,
        accessToken: session.accessToken,
        ...(session.refreshToken ? { refreshToken: session.refreshToken, oauthClientId: clientId } : {}),
        onTokenRefresh: (tokens) => {
            kept = { ...kept, accessToken: tokens.accessToken, refreshToken: tokens.refreshToken ?? kept.refreshToken };
            saveSession(kept);
        },
        store,
        scheduler: new MatrixScheduler(),
        cryptoCallbacks: security.callbacks,
        timelineSupport: true,
        disableVoip: true,
        verificationMethods: ["m.sas.v1"],
        useAuthorizationHeader: true,
        fallbackICEServerAllowed: false,
        logger,
    });

    let over = false;
    const stop = async (): Promise<void> => {
        if (over) return;
        over = true;
        security.stop();
        client.stopClient();
        await store.save(true).catch(() => undefined);
        await store.destroy?.().catch(() => undefined);
    };
    client.on(HttpApiEvent.SessionLoggedOut, (e) => {
        if (over) return;
        const why: Ended = e instanceof MatrixError && e.data["soft_logout"] === true ? "expired" : "ended";
        void stop().then(async () => {
            if (why === "expired") saveSession({ ...kept, accessToken: "", refreshToken: "" });
            else {
                await forgetPush().catch(() => undefined);
                dropSession();
                await wipeDatabases();
            }
            onEnded(why);
        });
    });

    await store.startup();
    await client.initRustCrypto({ cryptoDatabasePrefix: cryptoDatabase });
    // Chats with several people may hold devices that their owner has not confirmed yet: send to them as well.
    const crypto = client.getCrypto()!;
    crypto.globalBlacklistUnverifiedDevices = false;
    security.start(client);
    // Without them the device is confirmed like any other.
    if (secrets) await security.bring(secrets).catch((e: unknown) => console.warn("the keys that came along cannot be used", e));
    await client.startClient({
        initialSyncLimit: 30,
        lazyLoadMembers: true,
        pendingEventOrdering: PendingEventOrdering.Detached,
        threadSupport: false,
        includeArchivedRooms: false,
    });
    await new Promise<void>((ready) => {
        if (client.isInitialSyncComplete()) return ready();
        const check = (): void => {
            if (!client.isInitialSyncComplete() && !over) return;
            client.off(ClientEvent.Sync, check);
            ready();
        };
        client.on(ClientEvent.Sync, check);
    });

    const signOut = async (): Promise<void> => {
        if (over) return;
        over = true;
        security.stop();
        await forgetPush().catch(() => undefined);
        // A server that cannot be reached must not keep anybody from signing out here.
        await client.logout(true).catch(() => undefined);
        await client.clearStores({ cryptoDatabasePrefix: cryptoDatabase }).catch(() => undefined);
        dropSession();
        await wipeDatabases();
    };
    return { client, security, stop, signOut };
}
