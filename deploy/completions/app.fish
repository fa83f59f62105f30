# Print an optspec for argparse to handle cmd's options that are independent of any subcommand.
function __fish_app_global_optspecs
    string join \n h/help V/version
end

function __fish_app_needs_command
    # Figure out if the current invocation already has a command.
    set -l cmd (commandline -opc)
    set -e cmd[1]
    argparse -s (__fish_app_global_optspecs) -- $cmd 2>/dev/null
    or return
    if set -q argv[1]
        # Also print the command, so this can be used to figure out what it is.
        echo $argv[1]
        return 1
    end
    return 0
end

function __fish_app_using_subcommand
    set -l cmd (__fish_app_needs_command)
    test -z "$cmd"
    and return 1
    contains -- $cmd[1] $argv
end

complete -c app -n "__fish_app_needs_command" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c app -n "__fish_app_needs_command" -s V -l version -d 'Print version'
complete -c app -n "__fish_app_needs_command" -f -a "run" -d 'Run the proxy (the default)'
complete -c app -n "__fish_app_needs_command" -f -a "check" -d 'Validate the environment and the files of routes; print the settings that are not defaults, each with where it came from, and what goes where'
complete -c app -n "__fish_app_needs_command" -f -a "env" -d 'List every variable that is understood'
complete -c app -n "__fish_app_needs_command" -f -a "demo" -d 'Start an echo back end and the proxy before it, and send real traffic through it'
complete -c app -n "__fish_app_needs_command" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c app -n "__fish_app_using_subcommand run" -s h -l help -d 'Print help'
complete -c app -n "__fish_app_using_subcommand check" -l request -d 'Say instead which rule takes a request, and where that goes. Fails if none does' -r
complete -c app -n "__fish_app_using_subcommand check" -l header -d 'A field of the request; may be repeated' -r
complete -c app -n "__fish_app_using_subcommand check" -l all -d 'Print all settings'
complete -c app -n "__fish_app_using_subcommand check" -l json -d 'Print all settings, and nothing else, as the admin server\'s /config has them'
complete -c app -n "__fish_app_using_subcommand check" -l strict -d 'Fail if there are warnings, as of names that are not known, but for the one about this host\'s file descriptors'
complete -c app -n "__fish_app_using_subcommand check" -s h -l help -d 'Print help'
complete -c app -n "__fish_app_using_subcommand env" -l markdown -d 'As a Markdown table'
complete -c app -n "__fish_app_using_subcommand env" -s h -l help -d 'Print help'
complete -c app -n "__fish_app_using_subcommand demo" -l seconds -d 'How long to send traffic' -r
complete -c app -n "__fish_app_using_subcommand demo" -l once -d 'End after the table'
complete -c app -n "__fish_app_using_subcommand demo" -l tls -d 'With TLS on both sides of the proxy, and a certificate to throw away'
complete -c app -n "__fish_app_using_subcommand demo" -l routes -d 'With two back ends behind one port, and a file of routes to throw away: calls of gRPC go to one, all else to the other'
complete -c app -n "__fish_app_using_subcommand demo" -s h -l help -d 'Print help'
complete -c app -n "__fish_app_using_subcommand help; and not __fish_seen_subcommand_from run check env demo help" -f -a "run" -d 'Run the proxy (the default)'
complete -c app -n "__fish_app_using_subcommand help; and not __fish_seen_subcommand_from run check env demo help" -f -a "check" -d 'Validate the environment and the files of routes; print the settings that are not defaults, each with where it came from, and what goes where'
complete -c app -n "__fish_app_using_subcommand help; and not __fish_seen_subcommand_from run check env demo help" -f -a "env" -d 'List every variable that is understood'
complete -c app -n "__fish_app_using_subcommand help; and not __fish_seen_subcommand_from run check env demo help" -f -a "demo" -d 'Start an echo back end and the proxy before it, and send real traffic through it'
complete -c app -n "__fish_app_using_subcommand help; and not __fish_seen_subcommand_from run check env demo help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
