// The applications that sign people in here, and the keys that sign for it.
import { useState } from "react";
import { Banner, Button, Confirm, CopyButton, Dialog, Empty, ErrorNote, Switch, TextField, toast } from "../design";
import { t } from "../i18n";
import { api, messageOf } from "../setup/api";
import { date, useLoaded } from "./load";
import { SaveForm } from "./settings";

interface Secret {
    id: string;
    created: string;
    last_used?: string;
}

interface App {
    id: string;
    name: string;
    template: (typeof templates)[number];
    issuer: string;
    secret?: string;
    redirects: string[];
    groups: string[];
    gone: string[]; // groups that were removed
    logout: { url: string; ca: string };
    disabled: boolean;
    secrets: Secret[];
    last_used?: string;
}

interface Key {
    id: string;
    state: "next" | "signs" | "retired";
    from: string;
}

const templates = ["nextcloud", "grafana", "gitea", "jitsi", "generic", "public"] as const;
const lines = (text: string): string[] => text.split(/[\n,]/).flatMap((s) => s.trim() || []);

// Where all groups that it is for were removed, nobody may use it.
const nobodys = (a: App): boolean => a.groups.length === 0 && a.gone.length > 0;
const whose = (a: App): string =>
    nobodys(a) ? t("console.apps.gone", { groups: a.gone.join(", ") }) : a.groups.length ? t("console.apps.for", { groups: a.groups.join(", ") }) : t("console.apps.forAll");

export function AppsPage({ acts }: { acts: boolean }) {
    const { value: apps, error, reload } = useLoaded<App[]>("/api/console/apps");
    const [making, setMaking] = useState(false);
    const [made, setMade] = useState<App>();
    const [secrets, setSecrets] = useState<string>();
    const [groups, setGroups] = useState<App>();
    const [logout, setLogout] = useState<App>();
    const [asked, setAsked] = useState<App>();
    const opened = apps?.find((a) => a.id === secrets);
    const turn = async (a: App, disabled: boolean): Promise<void> => {
        await api("POST", `/api/console/apps/${a.id}/disabled`, { disabled });
        await reload();
    };
    return (
        <>
            <div className="console-title">
                <h1>{t("console.apps.title")}</h1>
                {acts && (
                    <Button icon="add" onPress={() => setMaking(true)} data-testid="app-new">
                        {t("console.apps.new")}
                    </Button>
                )}
            </div>
            <p className="hf-hint">{t("console.apps.text")}</p>
            <ErrorNote>{error}</ErrorNote>
            {made && <Credentials app={made} onClose={() => setMade(undefined)} />}
            {apps?.length === 0 && <Empty icon="key" title={t("console.apps.none")} />}
            <ul className="console-list" data-testid="apps">
                {(apps ?? []).map((a) => (
                    <li key={a.id}>
                        <span className="console-who">
                            <b>{a.name}</b>
                            <span className="hf-hint">{t("console.apps.id", { id: a.id })}</span>
                            <span className="hf-hint">{whose(a)}</span>
                        </span>
                        <span className="console-tags">
                            <span className="hf-tag">{t(`console.apps.template.${a.template}`)}</span>
                            {nobodys(a) && <span className="hf-tag hf-tag--warn">{t("console.apps.forNobody")}</span>}
                            {a.disabled && <span className="hf-tag hf-tag--warn">{t("console.apps.off")}</span>}
                        </span>
                        <span className="hf-hint console-when">{t("console.apps.used", { when: date(a.last_used) })}</span>
                        {acts && (
                            <span className="console-buttons">
                                {a.secrets.length > 0 && (
                                    <Button look="plain" icon="key" onPress={() => setSecrets(a.id)}>
                                        {t("console.apps.secrets")}
                                    </Button>
                                )}
                                <Button look="plain" icon="people" onPress={() => setGroups(a)}>
                                    {t("console.apps.groups")}
                                </Button>
                                <Button look="plain" icon="exit" onPress={() => setLogout(a)}>
                                    {t("console.apps.logout")}
                                </Button>
                                <Button look="plain" onPress={() => void turn(a, !a.disabled).catch((e) => toast(messageOf(e)))}>
                                    {t(a.disabled ? "console.apps.turnOn" : "console.apps.turnOff")}
                                </Button>
                                <Button look="plain" icon="trash" onPress={() => setAsked(a)}>
                                    {t("console.apps.remove")}
                                </Button>
                            </span>
                        )}
                    </li>
                ))}
            </ul>
            <Keys acts={acts} />
            {making && (
                <NewApp
                    onMade={(a) => {
                        setMade(a);
                        setMaking(false);
                        void reload();
                    }}
                    onClose={() => setMaking(false)}
                />
            )}
            {opened && (
                <Secrets
                    app={opened}
                    onMade={(a) => {
                        setMade(a);
                        setSecrets(undefined);
                    }}
                    onChange={reload}
                    onClose={() => setSecrets(undefined)}
                />
            )}
            {groups && <Access app={groups} onChange={reload} onClose={() => setGroups(undefined)} />}
            {logout && <Logout app={logout} onChange={reload} onClose={() => setLogout(undefined)} />}
            {asked && (
                <Confirm
                    title={t("console.apps.removeTitle", { name: asked.name })}
                    yes={t("console.apps.remove")}
                    danger
                    isOpen
                    onYes={async () => {
                        await api("DELETE", `/api/console/apps/${asked.id}`);
                        toast(t("console.apps.removed", { name: asked.name }));
                        if (made?.id === asked.id) setMade(undefined);
                        await reload();
                    }}
                    onClose={() => setAsked(undefined)}
                >
                    {t("console.apps.removeText")}
                </Confirm>
            )}
        </>
    );
}

// What the application has to be told. The secret is shown now and never again.
function Credentials({ app, onClose }: { app: App; onClose: () => void }) {
    const rows: [string, string][] = [
        [t("console.apps.issuer"), app.issuer],
        [t("console.apps.clientID"), app.id],
        ...(app.secret ? [[t("console.apps.secret"), app.secret] as [string, string]] : []),
    ];
    return (
        <section className="hf-card hf-card--wide" aria-label={app.name} data-testid="app-made">
            <h2>{t("console.apps.tell", { name: app.name })}</h2>
            <dl className="console-facts">
                {rows.map(([k, v]) => (
                    <div key={k} className="console-wide">
                        <dt>{k}</dt>
                        <dd>
                            <code>{v}</code>
                            <CopyButton text={v} label={t("console.apps.copy", { what: k })} />
                        </dd>
                    </div>
                ))}
            </dl>
            {app.secret && (
                <Banner icon="alert" kind="warn">
                    {t("console.apps.once")}
                </Banner>
            )}
            <div className="hf-actions">
                <Button look="plain" onPress={onClose}>
                    {t("console.apps.noted")}
                </Button>
            </div>
        </section>
    );
}

function NewApp({ onMade, onClose }: { onMade: (a: App) => void; onClose: () => void }) {
    const [template, setTemplate] = useState<App["template"]>("nextcloud");
    const [name, setName] = useState("");
    const [url, setURL] = useState("");
    const [redirects, setRedirects] = useState("");
    const [groups, setGroups] = useState("");
    const [silent, setSilent] = useState(false);
    const free = template === "generic" || template === "public";
    return (
        <Dialog title={t("console.apps.new")} isOpen onClose={onClose}>
            <SaveForm
                save={async () => onMade(await api<App>("POST", "/api/console/apps", { name, template, url, redirects: lines(redirects), groups: lines(groups), skip_consent: silent }))}
                button={t("console.apps.make")}
                testId="app-make"
                onCancel={onClose}
                fields={(wrong) => (
                    <>
                        <label className="hf-field">
                            <span className="hf-label">{t("console.apps.template")}</span>
                            <select value={template} onChange={(e) => setTemplate(e.target.value as App["template"])} data-testid="app-template">
                                {templates.map((x) => (
                                    <option key={x} value={x}>
                                        {t(`console.apps.template.${x}`)}
                                    </option>
                                ))}
                            </select>
                        </label>
                        <TextField label={t("console.apps.name")} value={name} onChange={setName} error={wrong("name")} autoFocus autoComplete="off" />
                        <TextField label={t("console.apps.url")} value={url} onChange={setURL} error={wrong("url")} hint={t("console.apps.urlHint")} inputMode="url" autoComplete="off" spellCheck="false" />
                        {free && <TextField label={t("console.apps.redirects")} value={redirects} onChange={setRedirects} error={wrong("redirects")} hint={t("console.apps.redirectsHint")} autoComplete="off" spellCheck="false" />}
                        <TextField label={t("console.apps.groups")} value={groups} onChange={setGroups} hint={t("console.apps.groupsHint")} autoComplete="off" />
                        <Switch isSelected={silent} onChange={setSilent} hint={t("console.apps.silentHint")}>
                            {t("console.apps.silent")}
                        </Switch>
                    </>
                )}
            />
        </Dialog>
    );
}

function Secrets({ app, onMade, onChange, onClose }: { app: App; onMade: (a: App) => void; onChange: () => Promise<void>; onClose: () => void }) {
    const [error, setError] = useState<string>();
    const run = (f: () => Promise<void>): void => void f().then(onChange).catch((e) => setError(messageOf(e)));
    return (
        <Dialog title={t("console.apps.secretsOf", { name: app.name })} isOpen onClose={onClose}>
            <p className="hf-hint">{t("console.apps.secretsText")}</p>
            <ErrorNote>{error}</ErrorNote>
            <ul className="console-list" data-testid="secrets">
                {app.secrets.map((s) => (
                    <li key={s.id}>
                        <span className="console-who">
                            <span>{t("console.apps.madeAt", { when: date(s.created) })}</span>
                            <span className="hf-hint">{t("console.apps.used", { when: date(s.last_used) })}</span>
                        </span>
                        <Button look="plain" icon="trash" onPress={() => run(() => api("DELETE", `/api/console/apps/${app.id}/secrets/${s.id}`))}>
                            {t("console.apps.removeSecret")}
                        </Button>
                    </li>
                ))}
            </ul>
            <div className="hf-actions">
                <Button look="plain" onPress={onClose}>
                    {t("common.close")}
                </Button>
                <Button onPress={() => run(async () => onMade(await api<App>("POST", `/api/console/apps/${app.id}/secrets`)))} data-testid="secret-new">
                    {t("console.apps.newSecret")}
                </Button>
            </div>
        </Dialog>
    );
}

function Access({ app, onChange, onClose }: { app: App; onChange: () => Promise<void>; onClose: () => void }) {
    const [groups, setGroups] = useState(app.groups.join(", "));
    return (
        <Dialog title={t("console.apps.groupsOf", { name: app.name })} isOpen onClose={onClose}>
            <SaveForm
                save={async () => {
                    await api("PUT", `/api/console/apps/${app.id}/groups`, { groups: lines(groups) });
                    await onChange();
                    onClose();
                }}
                button={t("common.save")}
                testId="app-groups"
                onCancel={onClose}
                fields={() => (
                    <>
                        {nobodys(app) && (
                            <Banner icon="alert" kind="warn">
                                {t("console.apps.goneText", { groups: app.gone.join(", ") })}
                            </Banner>
                        )}
                        <TextField label={t("console.apps.groups")} value={groups} onChange={setGroups} hint={t("console.apps.groupsHint")} autoFocus autoComplete="off" />
                    </>
                )}
            />
        </Dialog>
    );
}

// Where the application is told that somebody signed out, and by whose certificate it is known there.
function Logout({ app, onChange, onClose }: { app: App; onChange: () => Promise<void>; onClose: () => void }) {
    const [s, setS] = useState(app.logout);
    return (
        <Dialog title={t("console.apps.logoutOf", { name: app.name })} isOpen onClose={onClose}>
            <p className="hf-hint">{t("console.apps.logoutText")}</p>
            <SaveForm
                save={async () => {
                    await api("PUT", `/api/console/apps/${app.id}/logout`, { url: s.url.trim(), ca: s.ca.trim() });
                    await onChange();
                    onClose();
                }}
                button={t("common.save")}
                testId="app-logout"
                onCancel={onClose}
                fields={() => (
                    <>
                        <TextField
                            label={t("console.apps.logoutURL")}
                            value={s.url}
                            onChange={(url) => setS({ ...s, url })}
                            hint={t("console.apps.logoutURLHint")}
                            inputMode="url"
                            autoFocus
                            autoComplete="off"
                            spellCheck="false"
                        />
                        <TextField label={t("console.apps.ca")} multiline value={s.ca} onChange={(ca) => setS({ ...s, ca })} hint={t("console.apps.caHint")} spellCheck="false" />
                    </>
                )}
            />
        </Dialog>
    );
}

function Keys({ acts }: { acts: boolean }) {
    const { value: keys, error, reload } = useLoaded<Key[]>("/api/console/keys");
    const [asked, setAsked] = useState(false);
    const rotate = async (at_once: boolean): Promise<void> => {
        await api("POST", "/api/console/keys/rotate", { at_once });
        toast(t("console.keys.rotated"));
        await reload();
    };
    return (
        <section className="hf-card hf-card--wide" aria-labelledby="apps-keys">
            <h2 id="apps-keys">{t("console.keys.title")}</h2>
            <p className="hf-hint">{t("console.keys.text")}</p>
            <ErrorNote>{error}</ErrorNote>
            <ul className="console-list" data-testid="keys">
                {(keys ?? []).map((k) => (
                    <li key={k.id}>
                        <span className="console-who">
                            <code>{k.id}</code>
                            <span className="hf-hint">{t("console.keys.from", { when: date(k.from) })}</span>
                        </span>
                        <span className={k.state === "signs" ? "hf-tag hf-tag--ok" : "hf-tag"}>{t(`console.keys.${k.state}`)}</span>
                    </li>
                ))}
            </ul>
            {acts && (
                <div className="hf-actions">
                    <Button look="plain" onPress={() => setAsked(true)}>
                        {t("console.keys.stolen")}
                    </Button>
                    <Button look="plain" onPress={() => void rotate(false).catch((e) => toast(messageOf(e)))} data-testid="key-next">
                        {t("console.keys.next2")}
                    </Button>
                </div>
            )}
            {asked && (
                <Confirm title={t("console.keys.stolenTitle")} yes={t("console.keys.stolenYes")} danger isOpen onYes={() => rotate(true)} onClose={() => setAsked(false)}>
                    {t("console.keys.stolenText")}
                </Confirm>
            )}
        </section>
    );
}
