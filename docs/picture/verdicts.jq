# Two flows of each capture and verdict, with what moved a malicious one most: jq -rsf verdicts.jq flows.jsonl
def tenths: . * 10 | round / 10;
["CAPTURE", "VERDICT", "SCORE", "SOURCE", "DESTINATION", "PORT", "REASON"],
(group_by([.observed, .verdict])[][:2][]
  | [(.observed | sub("\\.pcap.*"; "")), .verdict, (.score * 100 | round / 100), .src_ip, .dst_ip, .dst_port,
     (.reasons[0] // empty | "\(.feature) \(.value | tenths), usually \(.normal | tenths)")])
| @tsv
