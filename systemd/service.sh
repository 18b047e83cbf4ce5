# How kwsd becomes a service, of the machine or of a user, and how it is removed: functions for
# `./dev install`, `kwsd install-service`, and the Debian package, which takes over from both.
#
# Before it is read, ME is the name that messages begin with, INSTALL and UNINSTALL are the commands
# to type, and SERVICE is the folder of this file.
# shellcheck shell=sh

BRIDGES="wyoming mqtt metrics web" # each has an extra, a unit and a user of its own

say() {
    echo "$ME: $*" >&2
}

# silently COMMAND… shows what the command prints only if it fails.
silently() {
    output=$(mktemp)
    status=0
    "$@" >"$output" 2>&1 || status=$?
    [ "$status" -eq 0 ] || cat "$output" >&2
    rm -f "$output"
    return "$status"
}

as_root() {
    if [ "$(id -u)" -eq 0 ]; then "$@"; else sudo "$@"; fi
}

# ROOT is for packagers and tests: a folder that stands for / of the machine.
ROOT=${DESTDIR:-}
CONFIG=${XDG_CONFIG_HOME:-${HOME:-}/.config}
DATA=${XDG_DATA_HOME:-${HOME:-}/.local/share}
STATE=${XDG_STATE_HOME:-${HOME:-}/.local/state}

# parts_of BRIDGES prints them, and what comes with them. The satellite is turned on by its owner
# alone, for it sends sound.
parts_of() {
    for bridge in $1; do
        echo "$bridge"
        [ "$bridge" != wyoming ] || echo satellite
    done
}

# turned_on BRIDGE SYSTEMCTL… starts a part of the $bridges anew where its owner has enabled it.
turned_on() {
    part=kwsd-$1.service
    shift
    if [ "$("$@" is-enabled "$part" 2>/dev/null || true)" = enabled ]; then
        started "$part" "$@"
    fi
}

# extras prints those that the $bridges need: "a,b", or nothing.
extras() {
    echo "$bridges" | xargs | tr ' ' ','
}

# put_into FOLDER EXTRAS copies the kwsd that runs this there; ./dev has a way of its own.
put_into() {
    say "copying kwsd into $1"
    "$KWSD_PYTHON" -m kwsd.cli.put_into "$1" "$2"
}

# started UNIT SYSTEMCTL… enables and restarts a service, and says why where it does not start.
started() {
    unit=$1
    shift
    "$@" daemon-reload
    silently "$@" enable "$unit"
    silently "$@" restart "$unit" && return # an older version may be running
    "$@" --no-pager --full status "$unit" >&2 || true
    say "$unit does not start; \`kwsd doctor\` and the lines above say what is wrong"
    exit 69
}

# bridges_of FOLDER adds those to $bridges whose units are there: an upgrade keeps them.
bridges_of() {
    for bridge in $BRIDGES; do
        case " $bridges " in *" $bridge "*) continue ;; esac
        [ ! -e "$1/kwsd-$bridge.service" ] || bridges="$bridges $bridge"
    done
}

# asked_for A,B sets $bridges to those that the option --with names.
asked_for() {
    for bridge in $(echo "$1" | tr ',' ' '); do
        case " $BRIDGES " in
        *" $bridge "*) bridges="$bridges $bridge" ;;
        *) say "--with takes names of $BRIDGES with commas between them, not $bridge"; exit 64 ;;
        esac
    done
}

# remove PATH… removes what is there, and says so.
remove() {
    for path in "$@"; do
        [ -e "$path" ] || [ -L "$path" ] || continue
        rm -rf -- "$path"
        say "removed $path"
    done
}

# unlink_command COMMAND TARGET removes the link COMMAND if it leads to TARGET.
unlink_command() {
    [ "$(readlink "$1")" != "$2" ] || remove "$1"
}

# What shells and man read, below share/ of the folder that kwsd is installed into.
SHARED="man/man1/kwsd.1 bash-completion/completions/kwsd zsh/site-functions/_kwsd
    fish/vendor_completions.d/kwsd.fish"

# link_shared INTO FOLDER and unlink_shared INTO FOLDER: links in INTO that lead to share/ of FOLDER.
link_shared() {
    for file in $SHARED; do
        mkdir -p "$(dirname "$1/$file")"
        ln -sf "$2/share/$file" "$1/$file"
    done
}

unlink_shared() {
    for file in $SHARED; do
        unlink_command "$1/$file" "$2/share/$file"
    done
    for folder in man/man1 bash-completion/completions bash-completion zsh/site-functions zsh \
        fish/vendor_completions.d fish; do
        remove_empty "$1/$folder"
    done
}

# remove_empty FOLDER removes what install may have made, if nothing is in it.
remove_empty() {
    rmdir "$1" 2>/dev/null || true
}

# not_packaged HOW refuses where the Debian package is installed: its units would be hidden by others.
not_packaged() {
    [ -e "$ROOT/usr/lib/systemd/system/kwsd.service" ] || return 0
    say "the Debian package kwsd is installed here: $1, or remove it first: sudo apt-get remove kwsd"
    exit 69
}

# The service, and templates: kwsd@kitchen for another microphone, kwsd-exec@lamp for a program.
UNITS="kwsd.service kwsd@.service kwsd-exec@.service"

# install_units WHOSE FOLDER and remove_units FOLDER SYSTEMCTL…
install_units() {
    for unit in $UNITS; do
        install -Dm644 "$SERVICE/$1/$unit" "$2/$unit"
    done
}

remove_units() {
    folder=$1
    shift
    if [ -e "$folder/kwsd.service" ]; then
        silently "$@" disable --now kwsd.service
    fi
    for unit in "$folder"/*.wants/kwsd@?*.service "$folder"/*.wants/kwsd-exec@?*.service; do
        [ -L "$unit" ] || continue
        silently "$@" disable --now "$(basename "$unit")"
    done
    for unit in $UNITS; do
        remove "$folder/$unit"
    done
}

# remove_drop_ins FOLDER removes what `systemctl edit` has put there for the units of kwsd.
remove_drop_ins() {
    for part in $(parts_of "$BRIDGES"); do
        remove "$1/kwsd-$part.service.d"
    done
    remove "$1/kwsd.service.d" "$1"/kwsd@*.service.d "$1"/kwsd-exec@*.service.d
}

install_system() {
    if [ "$(id -u)" -ne 0 ]; then
        say "the machine's service is installed by root: sudo $INSTALL;" \
            "your own service: $INSTALL --user"
        exit 77
    fi
    not_packaged "upgrade it with apt-get"
    bridges_of "$ROOT/etc/systemd/system"
    put_into "$ROOT/opt/kwsd" "$(extras)"
    mkdir -p "$ROOT/usr/local/bin"
    ln -sf /opt/kwsd/bin/kwsd "$ROOT/usr/local/bin/kwsd"
    link_shared "$ROOT/usr/local/share" /opt/kwsd
    install_units system "$ROOT/etc/systemd/system"
    install -Dm644 "$SERVICE/sysusers.d/kwsd.conf" "$ROOT/etc/sysusers.d/kwsd.conf"
    install -Dm644 "$SERVICE/tmpfiles.d/kwsd.conf" "$ROOT/etc/tmpfiles.d/kwsd.conf"
    if [ -e "$ROOT/etc/systemd/user/kwsd.service" ]; then # put there by kwsd 0.1.0
        install -Dm644 "$SERVICE/user/kwsd.service" "$ROOT/etc/systemd/user/kwsd.service"
    fi
    parts=$(parts_of "$bridges")
    for part in $parts; do
        name=kwsd-$part
        install -Dm644 "$SERVICE/system/$name.service" "$ROOT/etc/systemd/system/$name.service"
        install -Dm644 "$SERVICE/sysusers.d/$name.conf" "$ROOT/etc/sysusers.d/$name.conf"
        [ "$part" != satellite ] || continue # is announced by whoever turns it on
        if [ -e "$SERVICE/avahi/$name.service" ]; then # read where Avahi is, harmless elsewhere
            install -Dm644 "$SERVICE/avahi/$name.service" "$ROOT/etc/avahi/services/$name.service"
        fi
    done
    silently systemd-sysusers kwsd.conf
    for part in $parts; do
        silently systemd-sysusers "kwsd-$part.conf"
    done
    silently systemd-tmpfiles --create kwsd.conf
    config=$ROOT/etc/kwsd/kwsd.yaml
    if [ ! -e "$config" ]; then
        install -Dm644 "$SERVICE/kwsd.yaml" "$config"
    elif ! grep -q '^[^#]*admin_group:' "$config"; then
        say "$config stays as it is; with \`socket: {admin_group: kwsd-admin}\` in it, the members" \
            "of that group may enroll speakers and add words"
    fi
    started kwsd.service systemctl
    for bridge in $bridges; do
        started "kwsd-$bridge.service" systemctl
        say "kwsd-$bridge serves, now and from boot on; docs/guide says who may connect"
    done
    case " $bridges " in *" wyoming "*) turned_on satellite systemctl ;; esac
    say "the service listens, now and from boot on. Next:"
    cat <<END
    sudo usermod -aG kwsd,kwsd-admin ${SUDO_USER:-\$USER}   # then log in again
    kwsd doctor                                # is the machine fine?
    kwsd events                                # say "computer"
END
}

install_user() {
    if [ "$(id -u)" -eq 0 ]; then
        say "your own service is installed by yourself, not by root: $INSTALL --user"
        exit 64
    fi
    not_packaged "use its service (systemctl --user enable --now kwsd)"
    bridges_of "$CONFIG/systemd/user"
    put_into "$DATA/kwsd" "$(extras)"
    if [ -e "$ROOT/etc/systemd/system/kwsd.service" ]; then
        say "removing the machine's service, which would compete for the microphone"
        # shellcheck disable=SC2086 # the words of a command
        as_root $UNINSTALL
    fi
    mkdir -p "$HOME/.local/bin"
    ln -sf "$DATA/kwsd/bin/kwsd" "$HOME/.local/bin/kwsd"
    link_shared "$DATA" "$DATA/kwsd"
    install_units user "$CONFIG/systemd/user"
    for part in $(parts_of "$bridges"); do
        name=kwsd-$part.service
        install -Dm644 "$SERVICE/user/$name" "$CONFIG/systemd/user/$name"
    done
    move_state
    started kwsd.service systemctl --user
    for bridge in $bridges; do
        started "kwsd-$bridge.service" systemctl --user
        say "kwsd-$bridge serves, now and from login on; docs/guide says who may connect"
    done
    case " $bridges " in *" wyoming "*) turned_on satellite systemctl --user ;; esac
    kwsd=kwsd
    case ":$PATH:" in *":$HOME/.local/bin:"*) ;; *) kwsd=$HOME/.local/bin/kwsd ;; esac
    say "the service listens, now and from login on. Next:"
    cat <<END
    $kwsd doctor          # is the machine fine?
    $kwsd events          # say "computer"
    $kwsd enroll ${USER:-ann}
END
}

# Before systemd 254, units of kwsd 0.1.0 kept a user's state beside the configuration.
move_state() {
    for file in "$CONFIG"/kwsd/*.voiceprint "$CONFIG"/kwsd/*.word "$CONFIG/kwsd/room.calibration" \
        "$CONFIG/kwsd/peaks.jsonl" "$CONFIG/kwsd/clips"; do
        if [ -e "$file" ] && [ ! -e "$STATE/kwsd/$(basename "$file")" ]; then
            [ -d "$STATE/kwsd" ] || install -dm700 "$STATE/kwsd"
            say "moving $file to $STATE/kwsd"
            mv "$file" "$STATE/kwsd/"
        fi
    done
}

# uninstall_system PURGE and uninstall_user PURGE: PURGE is true or false.
uninstall_system() {
    if [ "$(id -u)" -ne 0 ]; then
        say "the machine's service is removed by root: sudo $UNINSTALL;" \
            "your own service: $UNINSTALL --user"
        exit 77
    fi
    bridges_of "$ROOT/etc/systemd/system"
    for part in $(parts_of "$bridges"); do
        if [ -e "$ROOT/etc/systemd/system/kwsd-$part.service" ]; then
            silently systemctl disable --now "kwsd-$part.service"
        fi
        remove "$ROOT/etc/systemd/system/kwsd-$part.service" \
            "$ROOT/etc/sysusers.d/kwsd-$part.conf" \
            "$ROOT/etc/avahi/services/kwsd-$part.service"
    done
    remove_units "$ROOT/etc/systemd/system" systemctl
    unlink_command "$ROOT/usr/local/bin/kwsd" /opt/kwsd/bin/kwsd
    unlink_shared "$ROOT/usr/local/share" /opt/kwsd
    if cmp -s "$SERVICE/kwsd.yaml" "$ROOT/etc/kwsd/kwsd.yaml"; then
        remove "$ROOT/etc/kwsd/kwsd.yaml"
    fi
    remove "$ROOT/etc/systemd/user/kwsd.service" "$ROOT/etc/sysusers.d/kwsd.conf" \
        "$ROOT/etc/tmpfiles.d/kwsd.conf" "$ROOT/opt/kwsd" "$ROOT/run/kwsd"
    for folder in kwsd/exec kwsd avahi/services avahi; do
        remove_empty "$ROOT/etc/$folder"
    done
    if $1; then remove_drop_ins "$ROOT/etc/systemd/system"; fi
    systemctl daemon-reload
    if $1; then
        remove "$ROOT/etc/kwsd" "$ROOT/var/lib/kwsd" "$ROOT"/var/lib/kwsd-*
        for part in $(parts_of "$BRIDGES"); do
            userdel "kwsd-$part" 2>/dev/null && say "userdel kwsd-$part" || true
        done
        for step in "userdel kwsd-exec" "userdel kwsd" "groupdel kwsd-exec" "groupdel kwsd" \
            "groupdel kwsd-admin" "groupdel kwsd-stream"; do
            $step 2>/dev/null && say "$step" || true # userdel takes the user's group along
        done
    else
        kept "$ROOT/var/lib/kwsd" "$ROOT"/var/lib/kwsd-* "$ROOT/etc/kwsd"
    fi
}

uninstall_user() {
    bridges_of "$CONFIG/systemd/user"
    for part in $(parts_of "$bridges"); do
        if [ -e "$CONFIG/systemd/user/kwsd-$part.service" ]; then
            silently systemctl --user disable --now "kwsd-$part.service"
        fi
        remove "$CONFIG/systemd/user/kwsd-$part.service"
    done
    remove_units "$CONFIG/systemd/user" systemctl --user
    unlink_command "$HOME/.local/bin/kwsd" "$DATA/kwsd/bin/kwsd"
    unlink_shared "$DATA" "$DATA/kwsd"
    remove "$DATA/kwsd"
    if $1; then remove_drop_ins "$CONFIG/systemd/user"; fi
    systemctl --user daemon-reload
    if $1; then
        remove "$CONFIG/kwsd" "$STATE/kwsd" "$STATE"/kwsd-*
    else
        kept "$STATE/kwsd" "$STATE"/kwsd-* "$CONFIG/kwsd"
    fi
}

kept() {
    for path in "$@"; do
        [ ! -e "$path" ] || say "kept $path, which \`$UNINSTALL --purge\` removes"
    done
}

# service install ARGUMENT… and service uninstall ARGUMENT…
service() {
    command=$1
    shift
    whose=system
    purge=false
    bridges=""
    while [ $# -gt 0 ]; do
        case $command$1 in
        install--user | uninstall--user) whose=user ;;
        uninstall--purge) purge=true ;;
        install--with=*) asked_for "${1#*=}" ;;
        install--with) shift; asked_for "${1:-nothing}" ;;
        install*) say "$INSTALL takes --user and --with $BRIDGES, not $1"; exit 64 ;;
        *) say "$UNINSTALL takes --user and --purge, not $1"; exit 64 ;;
        esac
        [ $# -eq 0 ] || shift
    done
    case $command in
    install) "install_$whose" ;;
    *) "uninstall_$whose" "$purge" ;;
    esac
}
