# Completion of kwsd in bash. Made by `python -m kwsd.cli.reference`; do not edit.

# _kwsd_command PATH sets what a command has: its options, those of them that have one value or
# many, its actions, and how many arguments stand before the name of an action.
_kwsd_command() {
    options='' single='' many='' actions='' before=0
    case $1 in
    'kwsd')
        options='-h --help -v --verbose --version'
        actions='run events status reload pause resume enroll speakers word clips calibrate wyoming mqtt metrics web detect embed devices doctor config install-service uninstall-service bench train help'
        before=0
        ;;
    'kwsd run')
        options='-h --help -v --verbose --config --words --socket --state --source --format --rate --channels --realtime --wait-for-client --print --json'
        single='--config --words --socket --state --source --format --rate --channels'
        ;;
    'kwsd events')
        options='-h --help -v --verbose --config --socket --types --words --count --details --reconnect --no-reconnect --exec --json'
        single='--config --socket --types --words --count --exec'
        ;;
    'kwsd status')
        options='-h --help -v --verbose --config --socket --json'
        single='--config --socket'
        ;;
    'kwsd reload')
        options='-h --help -v --verbose --config --socket --json'
        single='--config --socket'
        ;;
    'kwsd pause')
        options='-h --help -v --verbose --for --holder --config --socket --json'
        single='--for --holder --config --socket'
        ;;
    'kwsd resume')
        options='-h --help -v --verbose --holder --config --socket --json'
        single='--holder --config --socket'
        ;;
    'kwsd enroll')
        options='-h --help -v --verbose --wav --from-clips --steps --reference --word --yes --config --socket --state --json'
        single='--reference --word --config --socket --state'
        many='--wav --from-clips'
        ;;
    'kwsd speakers')
        options='-h --help -v --verbose --delete --reference --config --socket --state --json'
        single='--delete --reference --config --socket --state'
        actions='test'
        before=0
        ;;
    'kwsd speakers test')
        options='-h --help -v --verbose --config --socket --state --json'
        single='--config --socket --state'
        ;;
    'kwsd word')
        options='-h --help -v --verbose'
        actions='add improve list remove export import test rebuild edit takes enable disable'
        before=0
        ;;
    'kwsd word add')
        options='-h --help -v --verbose --wav --record --text-only --from-clips --steps --rate --room --language --synthesis --no-synthesis --yes --config --socket --state --json'
        single='--record --rate --language --config --socket --state'
        many='--wav'
        ;;
    'kwsd word improve')
        options='-h --help -v --verbose --yes --config --socket --state --json'
        single='--config --socket --state'
        ;;
    'kwsd word list')
        options='-h --help -v --verbose --config --socket --state --json'
        single='--config --socket --state'
        ;;
    'kwsd word remove')
        options='-h --help -v --verbose --config --socket --state --json'
        single='--config --socket --state'
        ;;
    'kwsd word export')
        options='-h --help -v --verbose --config --socket --state --json'
        single='--config --socket --state'
        ;;
    'kwsd word import')
        options='-h --help -v --verbose --config --socket --state --json'
        single='--config --socket --state'
        ;;
    'kwsd word test')
        options='-h --help -v --verbose --config --socket --state --json'
        single='--config --socket --state'
        ;;
    'kwsd word rebuild')
        options='-h --help -v --verbose --rate --yes --config --socket --state --json'
        single='--rate --config --socket --state'
        ;;
    'kwsd word edit')
        options='-h --help -v --verbose --config --socket --state --json'
        single='--config --socket --state'
        ;;
    'kwsd word takes')
        options='-h --help -v --verbose --config --socket --state --json'
        single='--config --socket --state'
        actions='list play trim redo drop clear'
        before=1
        ;;
    'kwsd word takes list')
        options='-h --help -v --verbose --config --socket --state --json'
        single='--config --socket --state'
        ;;
    'kwsd word takes play')
        options='-h --help -v --verbose --whole --out --config --socket --state --json'
        single='--out --config --socket --state'
        ;;
    'kwsd word takes trim')
        options='-h --help -v --verbose --yes --config --socket --state --json'
        single='--config --socket --state'
        ;;
    'kwsd word takes redo')
        options='-h --help -v --verbose --wav --record --yes --config --socket --state --json'
        single='--wav --config --socket --state'
        ;;
    'kwsd word takes drop')
        options='-h --help -v --verbose --yes --config --socket --state --json'
        single='--config --socket --state'
        ;;
    'kwsd word takes clear')
        options='-h --help -v --verbose --yes --config --socket --state --json'
        single='--config --socket --state'
        ;;
    'kwsd word enable')
        options='-h --help -v --verbose --config --socket --json'
        single='--config --socket'
        ;;
    'kwsd word disable')
        options='-h --help -v --verbose --config --socket --json'
        single='--config --socket'
        ;;
    'kwsd clips')
        options='-h --help -v --verbose'
        actions='list play label keep clear'
        before=0
        ;;
    'kwsd clips list')
        options='-h --help -v --verbose --config --socket --state --json'
        single='--config --socket --state'
        ;;
    'kwsd clips play')
        options='-h --help -v --verbose --out --config --socket --state --json'
        single='--out --config --socket --state'
        ;;
    'kwsd clips label')
        options='-h --help -v --verbose --config --socket --state --json'
        single='--config --socket --state'
        ;;
    'kwsd clips keep')
        options='-h --help -v --verbose --config --socket --state --json'
        single='--config --socket --state'
        ;;
    'kwsd clips clear')
        options='-h --help -v --verbose --all --yes --config --socket --state --json'
        single='--config --socket --state'
        ;;
    'kwsd calibrate')
        options='-h --help -v --verbose --listen --wav --log --speakers --undo --rate --far --nobody-spoke --plot --words --yes --config --socket --state --json'
        single='--listen --log --rate --far --plot --words --config --socket --state'
        many='--wav'
        ;;
    'kwsd wyoming')
        options='-h --help -v --verbose --uri --allow --max-clients --config --socket --satellite --name --area --play --awake-sound --done-sound --timer --stop-word'
        single='--uri --allow --max-clients --config --socket --name --area --play --awake-sound --done-sound --timer --stop-word'
        ;;
    'kwsd mqtt')
        options='-h --help -v --verbose --host --port --username --password-file --tls --ca-file --certificate-file --topic --name --discovery --arbitrate --config --socket'
        single='--host --port --username --password-file --ca-file --certificate-file --topic --name --discovery --arbitrate --config --socket'
        ;;
    'kwsd metrics')
        options='-h --help -v --verbose --listen --textfile --interval --config --socket'
        single='--listen --textfile --interval --config --socket'
        ;;
    'kwsd web')
        options='-h --help -v --verbose --listen --tls-cert --tls-key --insecure --config --socket'
        single='--listen --tls-cert --tls-key --config --socket'
        actions='link'
        before=0
        ;;
    'kwsd web link')
        options='-h --help -v --verbose --qr'
        ;;
    'kwsd detect')
        options='-h --help -v --verbose --trace --json --details --words --config --state'
        single='--trace --words --config --state'
        ;;
    'kwsd embed')
        options='-h --help -v --verbose --out --config --json'
        single='--out --config'
        ;;
    'kwsd devices')
        options='-h --help -v --verbose --json'
        ;;
    'kwsd doctor')
        options='-h --help -v --verbose --config --socket --no-microphone --json'
        single='--config --socket'
        ;;
    'kwsd config')
        options='-h --help -v --verbose --config --socket --state --json'
        single='--config --socket --state'
        ;;
    'kwsd install-service')
        options='-h --help -v --verbose --user --with'
        single='--with'
        ;;
    'kwsd uninstall-service')
        options='-h --help -v --verbose --user --purge'
        ;;
    'kwsd bench')
        options='-h --help -v --verbose'
        actions='cost accuracy words soak'
        before=0
        ;;
    'kwsd bench cost')
        options='-h --help -v --verbose --json --markdown --engines --seconds --repeats --wakes'
        single='--json --markdown --engines --seconds --repeats --wakes'
        ;;
    'kwsd bench accuracy')
        options='-h --help -v --verbose --json --markdown --engines --negatives --noise --snr --words --plots'
        single='--json --markdown --engines --noise --snr --words --plots'
        many='--negatives'
        ;;
    'kwsd bench words')
        options='-h --help -v --verbose --json --markdown --shots --seeds --words --most --together --negatives'
        single='--json --markdown --shots --seeds --words --most'
        many='--negatives'
        ;;
    'kwsd bench soak')
        options='-h --help -v --verbose --json --markdown --hours'
        single='--json --markdown --hours'
        ;;
    'kwsd train')
        options='-h --help -v --verbose'
        actions='unpack import synthesize folds align homophones cache distill finetune heads checker voices compare ablate export negatives cohort evaluate'
        before=0
        ;;
    'kwsd train unpack')
        options='-h --help -v --verbose --work --data --val'
        single='--work --data --val'
        ;;
    'kwsd train import')
        options='-h --help -v --verbose --work --data --layout --name'
        single='--work --data --layout --name'
        ;;
    'kwsd train synthesize')
        options='-h --help -v --verbose --work --set'
        single='--work --set'
        ;;
    'kwsd train folds')
        options='-h --help -v --verbose --work'
        single='--work'
        ;;
    'kwsd train align')
        options='-h --help -v --verbose --work --set'
        single='--work --set'
        ;;
    'kwsd train homophones')
        options='-h --help -v --verbose --work --set'
        single='--work --set'
        ;;
    'kwsd train cache')
        options='-h --help -v --verbose --work --only --set'
        single='--work --only --set'
        ;;
    'kwsd train distill')
        options='-h --help -v --verbose --work --data --set'
        single='--work --data --set'
        ;;
    'kwsd train finetune')
        options='-h --help -v --verbose --work --data --encoder --set'
        single='--work --data --encoder --set'
        ;;
    'kwsd train heads')
        options='-h --help -v --verbose --work --data --encoder --only --set'
        single='--work --data --encoder --only --set'
        ;;
    'kwsd train checker')
        options='-h --help -v --verbose --work --data --models --only --set --teacher'
        single='--work --data --models --only --set --teacher'
        ;;
    'kwsd train voices')
        options='-h --help -v --verbose --work --data --models --set'
        single='--work --data --models --set'
        ;;
    'kwsd train compare')
        options='-h --help -v --verbose --work --data --encoder --set --teacher --json'
        single='--work --data --encoder --set --teacher --json'
        ;;
    'kwsd train ablate')
        options='-h --help -v --verbose --work --data --only --set --teacher'
        single='--work --data --only --set --teacher'
        ;;
    'kwsd train export')
        options='-h --help -v --verbose --work --data --models --encoder --only --float'
        single='--work --data --models --encoder --only'
        ;;
    'kwsd train negatives')
        options='-h --help -v --verbose --work --data --models'
        single='--work --data --models'
        ;;
    'kwsd train cohort')
        options='-h --help -v --verbose --work --data --models --set'
        single='--work --data --models --set'
        ;;
    'kwsd train evaluate')
        options='-h --help -v --verbose --work --data --models --only --ungated --checker --write'
        single='--work --data --models --only --checker'
        ;;
    'kwsd help')
        options='-h --help -v --verbose'
        ;;
    esac
}

# _kwsd_value PATH NAME sets what a value is: files, folders, or one of some choices. NAME is an
# option, or the number of an argument by position.
_kwsd_value() {
    kind='' choices=''
    case "$1 $2" in
    'kwsd run --config') kind=files ;;
    'kwsd run --socket') kind=files ;;
    'kwsd run --state') kind=folders ;;
    'kwsd run --format') kind=choices choices='s8 s16 s24 s32 f32' ;;
    'kwsd events --config') kind=files ;;
    'kwsd events --socket') kind=files ;;
    'kwsd status --config') kind=files ;;
    'kwsd status --socket') kind=files ;;
    'kwsd reload --config') kind=files ;;
    'kwsd reload --socket') kind=files ;;
    'kwsd pause --config') kind=files ;;
    'kwsd pause --socket') kind=files ;;
    'kwsd resume --config') kind=files ;;
    'kwsd resume --socket') kind=files ;;
    'kwsd enroll --wav') kind=files ;;
    'kwsd enroll --config') kind=files ;;
    'kwsd enroll --socket') kind=files ;;
    'kwsd enroll --state') kind=folders ;;
    'kwsd speakers --config') kind=files ;;
    'kwsd speakers --socket') kind=files ;;
    'kwsd speakers --state') kind=folders ;;
    'kwsd speakers test --config') kind=files ;;
    'kwsd speakers test --socket') kind=files ;;
    'kwsd speakers test --state') kind=folders ;;
    'kwsd speakers test *') kind=files ;;
    'kwsd word add --wav') kind=files ;;
    'kwsd word add --config') kind=files ;;
    'kwsd word add --socket') kind=files ;;
    'kwsd word add --state') kind=folders ;;
    'kwsd word improve --config') kind=files ;;
    'kwsd word improve --socket') kind=files ;;
    'kwsd word improve --state') kind=folders ;;
    'kwsd word list --config') kind=files ;;
    'kwsd word list --socket') kind=files ;;
    'kwsd word list --state') kind=folders ;;
    'kwsd word remove --config') kind=files ;;
    'kwsd word remove --socket') kind=files ;;
    'kwsd word remove --state') kind=folders ;;
    'kwsd word export --config') kind=files ;;
    'kwsd word export --socket') kind=files ;;
    'kwsd word export --state') kind=folders ;;
    'kwsd word export 1') kind=files ;;
    'kwsd word import --config') kind=files ;;
    'kwsd word import --socket') kind=files ;;
    'kwsd word import --state') kind=folders ;;
    'kwsd word import 0') kind=files ;;
    'kwsd word test --config') kind=files ;;
    'kwsd word test --socket') kind=files ;;
    'kwsd word test --state') kind=folders ;;
    'kwsd word test *') kind=files ;;
    'kwsd word rebuild --config') kind=files ;;
    'kwsd word rebuild --socket') kind=files ;;
    'kwsd word rebuild --state') kind=folders ;;
    'kwsd word edit --config') kind=files ;;
    'kwsd word edit --socket') kind=files ;;
    'kwsd word edit --state') kind=folders ;;
    'kwsd word takes --config') kind=files ;;
    'kwsd word takes --socket') kind=files ;;
    'kwsd word takes --state') kind=folders ;;
    'kwsd word takes list --config') kind=files ;;
    'kwsd word takes list --socket') kind=files ;;
    'kwsd word takes list --state') kind=folders ;;
    'kwsd word takes play --out') kind=files ;;
    'kwsd word takes play --config') kind=files ;;
    'kwsd word takes play --socket') kind=files ;;
    'kwsd word takes play --state') kind=folders ;;
    'kwsd word takes trim --config') kind=files ;;
    'kwsd word takes trim --socket') kind=files ;;
    'kwsd word takes trim --state') kind=folders ;;
    'kwsd word takes redo --wav') kind=files ;;
    'kwsd word takes redo --config') kind=files ;;
    'kwsd word takes redo --socket') kind=files ;;
    'kwsd word takes redo --state') kind=folders ;;
    'kwsd word takes drop --config') kind=files ;;
    'kwsd word takes drop --socket') kind=files ;;
    'kwsd word takes drop --state') kind=folders ;;
    'kwsd word takes clear --config') kind=files ;;
    'kwsd word takes clear --socket') kind=files ;;
    'kwsd word takes clear --state') kind=folders ;;
    'kwsd word enable --config') kind=files ;;
    'kwsd word enable --socket') kind=files ;;
    'kwsd word disable --config') kind=files ;;
    'kwsd word disable --socket') kind=files ;;
    'kwsd clips list --config') kind=files ;;
    'kwsd clips list --socket') kind=files ;;
    'kwsd clips list --state') kind=folders ;;
    'kwsd clips play --out') kind=files ;;
    'kwsd clips play --config') kind=files ;;
    'kwsd clips play --socket') kind=files ;;
    'kwsd clips play --state') kind=folders ;;
    'kwsd clips label --config') kind=files ;;
    'kwsd clips label --socket') kind=files ;;
    'kwsd clips label --state') kind=folders ;;
    'kwsd clips label 0') kind=choices choices='right wrong none' ;;
    'kwsd clips keep --config') kind=files ;;
    'kwsd clips keep --socket') kind=files ;;
    'kwsd clips keep --state') kind=folders ;;
    'kwsd clips keep 0') kind=choices choices='on off default' ;;
    'kwsd clips clear --config') kind=files ;;
    'kwsd clips clear --socket') kind=files ;;
    'kwsd clips clear --state') kind=folders ;;
    'kwsd calibrate --wav') kind=files ;;
    'kwsd calibrate --plot') kind=files ;;
    'kwsd calibrate --config') kind=files ;;
    'kwsd calibrate --socket') kind=files ;;
    'kwsd calibrate --state') kind=folders ;;
    'kwsd wyoming --config') kind=files ;;
    'kwsd wyoming --socket') kind=files ;;
    'kwsd wyoming --awake-sound') kind=files ;;
    'kwsd wyoming --done-sound') kind=files ;;
    'kwsd mqtt --password-file') kind=files ;;
    'kwsd mqtt --ca-file') kind=files ;;
    'kwsd mqtt --certificate-file') kind=files ;;
    'kwsd mqtt --config') kind=files ;;
    'kwsd mqtt --socket') kind=files ;;
    'kwsd metrics --textfile') kind=files ;;
    'kwsd metrics --config') kind=files ;;
    'kwsd metrics --socket') kind=files ;;
    'kwsd web --tls-cert') kind=files ;;
    'kwsd web --tls-key') kind=files ;;
    'kwsd web --config') kind=files ;;
    'kwsd web --socket') kind=files ;;
    'kwsd detect --trace') kind=files ;;
    'kwsd detect --config') kind=files ;;
    'kwsd detect --state') kind=folders ;;
    'kwsd detect *') kind=files ;;
    'kwsd embed --out') kind=files ;;
    'kwsd embed --config') kind=files ;;
    'kwsd embed *') kind=files ;;
    'kwsd doctor --config') kind=files ;;
    'kwsd doctor --socket') kind=files ;;
    'kwsd config --config') kind=files ;;
    'kwsd config --socket') kind=files ;;
    'kwsd config --state') kind=folders ;;
    'kwsd config 0') kind=choices choices='show schema' ;;
    'kwsd bench cost --json') kind=files ;;
    'kwsd bench cost --markdown') kind=files ;;
    'kwsd bench accuracy --json') kind=files ;;
    'kwsd bench accuracy --markdown') kind=files ;;
    'kwsd bench accuracy --negatives') kind=folders ;;
    'kwsd bench accuracy --noise') kind=folders ;;
    'kwsd bench accuracy --plots') kind=folders ;;
    'kwsd bench accuracy 0') kind=folders ;;
    'kwsd bench words --json') kind=files ;;
    'kwsd bench words --markdown') kind=files ;;
    'kwsd bench words --negatives') kind=folders ;;
    'kwsd bench words 0') kind=folders ;;
    'kwsd bench soak --json') kind=files ;;
    'kwsd bench soak --markdown') kind=files ;;
    'kwsd train import --layout') kind=choices choices='speech_commands librispeech voxceleb mswc collected webdataset' ;;
    'kwsd train finetune --encoder') kind=files ;;
    'kwsd train heads --encoder') kind=files ;;
    'kwsd train checker --teacher') kind=files ;;
    'kwsd train compare --encoder') kind=files ;;
    'kwsd train compare --teacher') kind=files ;;
    'kwsd train compare --json') kind=files ;;
    'kwsd train ablate --teacher') kind=files ;;
    'kwsd train export --encoder') kind=files ;;
    'kwsd train evaluate --checker') kind=choices choices='small large off' ;;
    'kwsd help 0') kind=choices choices='run events status reload pause resume enroll speakers word clips calibrate wyoming mqtt metrics web detect embed devices doctor config install-service uninstall-service bench train help' ;;
    esac
}

_kwsd() {
    local options single many actions before kind choices
    local current=${COMP_WORDS[COMP_CWORD]} path=kwsd position=0 waiting='' only='' index word
    COMPREPLY=()
    _kwsd_command "$path"
    for ((index = 1; index < COMP_CWORD; index++)); do
        word=${COMP_WORDS[index]}
        case $word in
        --) [[ $only ]] || { only=yes waiting=''; continue; } ;;
        =) continue ;; # bash cuts --option=value into three
        -?*)
            if [[ ! $only ]]; then
                waiting=''
                [[ " $single $many " != *" $word "* ]] || waiting=$word
                continue
            fi
            ;;
        esac
        if [[ $waiting ]]; then
            [[ " $many " == *" $waiting "* ]] || waiting=''
        elif [[ $actions && $position -ge $before ]]; then
            [[ " $actions " == *" $word "* ]] || return 0
            path+=" $word" position=0
            _kwsd_command "$path"
        else
            position=$((position + 1))
        fi
    done
    [[ $current != = ]] || current=''
    if [[ $current == -* && ! $only ]]; then
        mapfile -t COMPREPLY < <(compgen -W "$options" -- "$current")
        return 0
    fi
    if [[ $waiting ]]; then
        _kwsd_value "$path" "$waiting"
    elif [[ $actions && $position -ge $before ]]; then
        kind=choices choices=$actions
    else
        _kwsd_value "$path" "$position"
        [[ $kind ]] || _kwsd_value "$path" '*'
    fi
    case $kind in
    choices) mapfile -t COMPREPLY < <(compgen -W "$choices" -- "$current") ;;
    files) mapfile -t COMPREPLY < <(compgen -f -- "$current") ;;
    folders) mapfile -t COMPREPLY < <(compgen -d -- "$current") ;;
    esac
    [[ $kind != files && $kind != folders ]] || compopt -o filenames 2>/dev/null
    return 0
}

complete -F _kwsd kwsd
