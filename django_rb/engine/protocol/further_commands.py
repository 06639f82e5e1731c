"""Additions to the command table: newer commands, and commands that only ask the server."""

# Commands that the table's servers did not list, in the table's format: commands of newer
# Redis, as redis-py 8.1 sends them, and DEBUG OBJECT.
LATER = """\
ARCOUNT       read   1      newer
ARDEL         write  1      newer
ARDELRANGE    write  1      newer
ARGET         read   1      newer
ARGETRANGE    read   1      newer
ARGREP        read   1      newer
ARINFO        read   1      newer
ARINSERT      write  1      newer
ARLASTITEMS   read   1      newer
ARLEN         read   1      newer
ARMGET        read   1      newer
ARMSET        write  1      newer
ARNEXT        read   1      newer
AROP          read   1      newer
ARRING        write  1      newer
ARSCAN        read   1      newer
ARSEEK        write  1      newer
ARSET         write  1      newer
BLMOVEM       write  1,2    newer
DEBUG|OBJECT  other  2      all
DELEX         write  1      newer
DIGEST        read   1      newer
HIMPORT|DISCARD other  -    newer
HIMPORT|DISCARDALL other - newer
HIMPORT|PREPARE other  -    newer
HIMPORT|SET   write  2      newer
HOTKEYS|GET   other  -      newer
HOTKEYS|RESET other  -      newer
HOTKEYS|START other  -      newer
HOTKEYS|STOP  other  -      newer
INCREX        write  1      newer
LMOVEM        write  1,2    newer
SDIFFCARD     read   1#     newer
SUNIONCARD    read   1#     newer
XCFGSET       write  1      newer
XNACK         write  1      newer
"""

# Servers flag only commands that read keys as read-only; these ask about the server itself.
QUESTIONS = """
ACL|CAT ACL|DRYRUN ACL|GENPASS ACL|GETUSER ACL|HELP ACL|LIST ACL|USERS ACL|WHOAMI
CLIENT|GETNAME CLIENT|GETREDIR CLIENT|HELP CLIENT|ID CLIENT|INFO CLIENT|LIST
CLIENT|TRACKINGINFO
CLUSTER|COUNT-FAILURE-REPORTS CLUSTER|COUNTKEYSINSLOT CLUSTER|GETKEYSINSLOT
CLUSTER|GETSLOTMIGRATIONS CLUSTER|HELP CLUSTER|INFO CLUSTER|KEYSLOT CLUSTER|LINKS
CLUSTER|MYID CLUSTER|MYSHARDID CLUSTER|NODES CLUSTER|REPLICAS CLUSTER|SHARDS
CLUSTER|SLAVES CLUSTER|SLOT-STATS CLUSTER|SLOTS
COMMAND COMMAND|COUNT COMMAND|DOCS COMMAND|GETKEYS COMMAND|GETKEYSANDFLAGS COMMAND|HELP
COMMAND|INFO COMMAND|LIST COMMANDLOG|GET COMMANDLOG|HELP COMMANDLOG|LEN
CONFIG|GET CONFIG|HELP DEBUG|OBJECT ECHO
FUNCTION|DUMP FUNCTION|HELP FUNCTION|LIST FUNCTION|STATS HOTKEYS|GET INFO LASTSAVE
LATENCY|DOCTOR LATENCY|GRAPH LATENCY|HELP LATENCY|HISTOGRAM LATENCY|HISTORY
LATENCY|LATEST MEMORY|DOCTOR MEMORY|HELP MEMORY|MALLOC-STATS MEMORY|STATS
MODULE|HELP MODULE|LIST OBJECT|HELP PING
PUBSUB|CHANNELS PUBSUB|HELP PUBSUB|NUMPAT PUBSUB|NUMSUB PUBSUB|SHARDCHANNELS
PUBSUB|SHARDNUMSUB ROLE SCRIPT|EXISTS SCRIPT|HELP SCRIPT|SHOW
SLOWLOG|GET SLOWLOG|HELP SLOWLOG|LEN TIME XGROUP|HELP XINFO|HELP
"""
